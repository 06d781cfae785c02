"""Blocks whose weights are divided among processes, on a BEiT-3 (its towers share blocks) and on a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import Backbone
from mwactl.config.recipe import LoraConfig, MethodConfig, MwaConfig
from mwactl.data.loader import PairBatch
from mwactl.errors import IncompatibleError, ResourceError
from mwactl.train import TrainingRun
from mwactl.train.distributed import PeerLostError, Processes
from mwactl.train.exchange import Exchange
from mwactl.train.sampling import Row
from mwactl.train.sharding import shard_blocks
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.model import Beit3Retrieval
from mwactl_beit3.sizes import Beit3Config

MWA = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8))
#: 7 pictures with 1, 2, 3, 1, 2, 1, 2 captions.
UNEVEN = np.array([(picture, picture) for picture in range(7)] + [(1, 7), (2, 8), (2, 9), (4, 10), (6, 11)])
#: The hidden width divides by no number of processes.
SIZES = Beit3Config(width=12, layers=3, heads=3, hidden=17, image_size=32, vocabulary=50, text_positions=18)


def beit3() -> Backbone:
    _, spec = find_spec("beit3-base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Beit3Retrieval(SIZES)
    return Beit3Backbone(spec, None, model, lambda captions, _: torch.full((len(captions), 4), 7))  # type: ignore[arg-type]


@pytest.fixture
def model_of(tiny_clip: Path) -> Callable[..., AdaptedModel]:
    """model_of(family, method): every tensor, also of the modules, with a random value."""

    def make(family: str, method: MethodConfig = MWA) -> AdaptedModel:
        if family == "beit3":
            backbone = beit3()
        else:
            plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
            backbone = plugin.build(spec, WeightsRequest(None))
        model = inject(backbone, method)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("logit_scale"):
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


def load(batches: Iterator[list[Row]]) -> Iterator[PairBatch]:
    """Every picture is random; captions have from 3 to 9 tokens."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(12, 3, 32, 32, generator=generator)
    tokens = torch.randint(5, 49, (12, 16), generator=generator)
    for caption in range(12):
        tokens[caption, 3 + caption % 7 :] = 1  # BEiT-3's padding
    for rows in batches:
        images, captions = [row[1] for row in rows], [caption for row in rows for caption in row[2:]]
        owners = torch.tensor([number for number, row in enumerate(rows) for _ in row[2:]])
        yield PairBatch(
            pixels[images], tokens[captions], torch.tensor(images), torch.tensor(captions),
            None if len(captions) == len(images) else owners,
        )  # fmt: skip


@pytest.fixture
def run_of(training) -> Callable[..., TrainingRun]:
    """run_of(model, processes): two epochs with a validation after each; sharded where there are several processes."""

    def make(model: AdaptedModel, processes: Processes | None = None, **options: Any) -> TrainingRun:
        def validate() -> dict[str, float]:
            model.to("cpu").eval()
            [batch] = load(iter([[(0, number, number) for number in range(12)]]))
            with torch.inference_mode():
                return {"rsum": (model.encode_image(batch.pixels) * model.encode_text(batch.tokens)).sum().item()}

        # A low rate: AdamW divides by small gradients, and so enlarges what is but rounding.
        options = {"lr": 0.0001, "validate": validate, "load_batches": load, **options}
        if processes is not None:
            options = {"processes": processes, "shard_backbone": True, **options}
        return training(model, **options)

    return make


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two states, relative to the largest value of each tensor."""
    assert one.keys() == other.keys()
    return max(((one[name] - other[name]).abs().max() / other[name].abs().max()).item() for name in one)


def held(backbone: Backbone) -> int:
    """Numbers that this process keeps of the backbone."""
    parameters = [*backbone.parameters()]
    return sum(tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel() for tensor in parameters)


CASES = {
    "beit3": ("beit3", {}),
    "beit3, in parts, an odd last batch": ("beit3", {"batch_size": 5, "micro_batch_size": 1}),
    "beit3, in parts, several captions": ("beit3", {"pairs": UNEVEN, "batch_size": 9, "micro_batch_size": 2}),
    "clip, in parts, with an empty share": ("clip", {"batch_size": 10, "micro_batch_size": 2, "count": 3}),
    "clip, an empty share": ("clip", {"batch_size": 10, "count": 3}),
    "clip, LoRA": ("clip", {"method": MethodConfig(name="lora", lora=LoraConfig(rank=2))}),
    "beit3, BitFit: some of a block is trained": ("beit3", {"method": MethodConfig(name="bitfit")}),
}


@pytest.mark.parametrize(("family", "options"), CASES.values(), ids=CASES)
def test_processes_that_hold_parts_of_the_blocks_train_what_one_does(together, model_of, run_of, family, options):
    options = dict(options)
    count, method = options.pop("count", 2), options.pop("method", MWA)
    if method.name == "lora":
        pytest.importorskip("peft")
    before = {name: tensor.clone() for name, tensor in model_of(family, method).adapter_state().items()}
    alone = run_of(model_of(family, method), folder="alone", **options).run()

    def work(processes: Processes) -> Any:
        whole = run_of(model_of(family, method), processes, folder="whole", shard_backbone=False, **options).run()
        return run_of(model_of(family, method), processes, **options).run(), whole

    for outcome, whole in together(count, work):
        assert far(outcome.state, whole.state) == 0.0
        if method.name != "bitfit":  # the biases of keys have no gradient but for rounding, which AdamW enlarges
            assert far(outcome.state, alone.state) < 1e-5
        assert outcome.validation_rsums == whole.validation_rsums == pytest.approx(alone.validation_rsums, rel=1e-4)
    assert far(alone.state, before) > 1e-3


@pytest.mark.parametrize(("family", "micro_batch_size"), [("beit3", None), ("clip", 1)])
def test_each_process_holds_its_part_and_two_blocks_at_most_are_whole(
    together, model_of, run_of, family, micro_batch_size
):
    def work(processes: Processes) -> tuple[int, ...]:
        model = model_of(family)
        whole = held(model.backbone)
        blocks = {id(site.block): site.block for site in model.backbone.sites()}
        inside = sum(parameter.numel() for block in blocks.values() for parameter in block.parameters())
        gathered: list[int] = []

        def look(_: Tensor) -> None:
            parts = [isinstance(next(block.parameters()), DTensor) for block in blocks.values()]
            gathered.append(parts.count(False))

        for parameter in model.trainable().values():
            parameter.register_hook(look)
        run_of(model, processes, epochs=1, micro_batch_size=micro_batch_size).run()
        assert model.backbone.count_parameters() == whole
        assert gathered
        return whole, inside, held(model.backbone), max(gathered)

    (whole, inside, first, most), (_, _, second, _) = together(2, work)
    assert first + second == whole + (whole - inside)
    assert abs(first - second) < 0.1 * inside
    assert most <= 2


def test_a_validation_may_come_before_the_first_step(together, model_of, run_of):
    """As in a run that was stopped in one: what inference mode has made, no training could write to."""

    def work(processes: Processes) -> int:
        run = run_of(model_of("beit3"), processes, epochs=1)
        assert run._validate is not None
        run._validate()
        return run.run().steps

    assert together(2, work) == [3, 3]


def test_memory_that_runs_out_in_a_tower_is_told_to_nobody_who_waits_in_one(together, model_of, run_of, monkeypatch):
    """They could not answer. The process ends, and with it the others."""

    def tell(_: Exchange, **news: bool) -> None:
        assert not news["failed"]

    def work(processes: Processes) -> None:
        model = model_of("clip")
        if processes.rank == 1:

            def fail(*_: Any) -> None:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

            model.backbone.sites()[-1].block.register_forward_hook(fail)
        run_of(model, processes, batch_size=12).run()

    monkeypatch.setattr(Exchange, "_agree", tell)
    other, failed = together(2, work)
    assert isinstance(failed, ResourceError)
    assert failed.fix == "train.micro_batch_size=3   (the same batch, encoded in parts)"
    assert isinstance(other, PeerLostError)


def test_a_sharded_recipe_is_validated_and_published_as_any_other(together, tiny_recipe, monkeypatch):
    from mwactl.config import load_recipe
    from mwactl.registry import Registry
    from mwactl.workflow import train
    from mwactl.workflow.load import adapter_tensors

    def work(processes: Processes) -> Any:
        monkeypatch.setattr(train, "joined", lambda _: nullcontext(processes))
        trained = [
            train.train_recipe(Registry.default(), load_recipe(str(tiny_recipe), [f"train.shard_backbone={sharded}"]))
            for sharded in ("false", "true")
        ]
        assert trained[0].folder == trained[1].folder  # the same run: either may go on with the other's checkpoint
        return trained

    for whole, sharded in together(2, work):
        one, two = (adapter_tensors(Registry.default(), trained.entry) for trained in (whole, sharded))
        assert far(one, two) == 0.0
        assert sharded.outcome.validation_rsums == whole.outcome.validation_rsums


def test_a_block_that_a_plugin_does_not_name_is_refused(together, model_of, monkeypatch):
    from mwactl.backbone.contract import Site
    from mwactl.backbone.layer_site import LayerSite

    monkeypatch.setattr(LayerSite, "block", Site.block)
    error, _ = together(2, lambda them: shard_blocks(model_of("beit3").backbone, them, torch.device("cpu")))
    assert isinstance(error, IncompatibleError)
    assert "layer/0 cannot be sharded; LayerSite does not say which module is its block" in str(error)


def test_one_process_alone_shards_nothing(model_of, run_of):
    model = model_of("beit3")
    assert run_of(model, epochs=1, shard_backbone=True).run().steps == 3
    assert type(model.backbone) is Beit3Backbone
