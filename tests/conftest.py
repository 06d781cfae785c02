"""Fixtures every test may use: an empty home, the command line in-process, the shared data where it is."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mwactl.cli import main
from mwactl.cli.output import Mode, out

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from mwactl.adapter import AdaptedModel, MergedModel
    from mwactl.backbone.contract import Backbone


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has its own MWACTL_HOME, and starts with the human output mode."""
    home = tmp_path / "mwactl-home"
    monkeypatch.setenv("MWACTL_HOME", str(home))
    monkeypatch.delenv("MWACTL_REGISTRY", raising=False)
    monkeypatch.delenv("MWACTL_DEBUG", raising=False)
    monkeypatch.setattr(os, "fsync", os.fstat)  # no test can cut the power, and thousands of syncs take a minute
    out.mode, out.debug = Mode.HUMAN, False
    yield home
    out.mode, out.debug = Mode.HUMAN, False


@dataclass(frozen=True)
class CliResult:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as one JSON document."""
        return json.loads(self.stdout)


@pytest.fixture
def mwactl_cli(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., CliResult]]:
    """Run `mwactl ARGS…` in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str | Path) -> CliResult:
        out.mode, out.debug = Mode.HUMAN, False
        monkeypatch.setattr(sys, "argv", ["mwactl", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capfd.readouterr()
        code = exit_info.value.code
        return CliResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared data (photographs, weights); the test is skipped where it is absent."""
    folder = Path(os.environ.get("MWACTL_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("the shared data is not here (set MWACTL_SHARED)")
    return folder


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: programs that are killed thousands of times wait for no disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path, prefix="mwactl-test-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    return {}


@pytest.fixture
def made_once(
    empty_home: Path, tmp_path_factory: pytest.TempPathFactory, _made: dict[str, tuple[str, Path]]
) -> Callable[[str, Callable[[], str]], str]:
    """made_once(key, make): the reference that `make()` gives; it really runs for the first test alone.

    What it left in that test's home is copied into the home of every other.
    """

    def make_or_copy(key: str, make: Callable[[], str]) -> str:
        if key in _made:
            shutil.copytree(_made[key][1], empty_home, dirs_exist_ok=True)
        else:
            reference = make()
            _made[key] = reference, shutil.copytree(empty_home, tmp_path_factory.mktemp("made") / "home")
        return _made[key][0]

    return make_or_copy


def pytest_configure(config: pytest.Config) -> None:
    """Loader processes are forked, which Python 3.12 and later warn of wherever a library has started a thread."""
    config.addinivalue_line(
        "filterwarnings", "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
    )


# -- a tiny CLIP and a tiny captioned data set: everything a whole training run needs, in a second or two ------------

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TINY_SPLITS = {"train": 24, "val": 8, "test": 8}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an open_clip model of two small blocks a tower, with seeded random weights."""
    import open_clip
    import safetensors.torch
    import torch

    torch.set_num_threads(1)  # matrices this small are slower on more
    folder = tmp_path_factory.mktemp("tiny-clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP)  # type: ignore[arg-type]
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    return folder


@pytest.fixture(scope="session")
def tiny_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset.json` (Karpathy) and `images/`: one colour a picture, named in its two captions."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("tiny-pictures")
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    for split, count in TINY_SPLITS.items():
        for number in range(count):
            name = f"{split}-{number:02}.png"
            hue = 256 * len(images) // sum(TINY_SPLITS.values())
            picture = Image.new("HSV", (40, 36), (hue, 255, 160 + 10 * (number % 3))).convert("RGB")
            picture.save(folder / "images" / name)
            captions = [f"a square of colour {hue}", f"{split} picture {number}, all of it {hue}"]
            sentences = [{"raw": text, "sentid": 2 * len(images) + i} for i, text in enumerate(captions)]
            images.append({"filename": name, "split": split, "sentences": sentences})
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return folder


@pytest.fixture
def own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with `captions.csv` and `photos`, as the README has it."""
    from PIL import Image

    colours = ("red", "green", "blue", "white", "black", "yellow", "orange", "purple", "brown", "grey")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for split, count in (("train", 10), ("val", 6), ("test", 6)):
            for number, colour in enumerate(colours[:count]):
                name = f"{split}-{number}.png"
                Image.new("RGB", (40, 32), colour).save(tmp_path / "photos" / name)
                table.writerow([name, f"a {colour} picture for {split}", split])


@pytest.fixture
def add_data(empty_home: Path) -> Callable[[str, Path], str]:
    """Add a folder like `tiny_pictures` to this test's catalogue under a name."""
    from mwactl.data import Catalogue

    def add(name: str, folder: Path) -> str:
        Catalogue.default().add(
            name, format="karpathy", annotations=folder / "dataset.json", images=folder / "images", replace=True
        )
        return name

    return add


@pytest.fixture
def tiny_data(add_data: Callable[[str, Path], str], tiny_pictures: Path) -> str:
    """The tiny data set in this test's catalogue; gives its name."""
    return add_data("tiny", tiny_pictures)


@pytest.fixture
def tiny_recipe(tmp_path: Path, tiny_clip: Path, tiny_data: str) -> Path:
    """A recipe that trains the tiny model on the tiny data: 2 epochs of 3 steps. Dropout and crops draw numbers."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""\
name: tiny-mwa
backbone:
  name: "clip:local-dir:{tiny_clip}"
data:
  name: {tiny_data}
  workers: 0
method:
  mwa:
    knowledge_extractor: 4
    alignment_enhancer: 8
    dropout: 0.2
train:
  epochs: 2
  batch_size: 8
  lr: 0.01
  device: cpu
"""
    )
    return path


@pytest.fixture
def trained_adapter(made_once: Callable[[str, Callable[[], str]], str], tiny_recipe: Path) -> str:
    """The reference of `tiny-mwa`, an adapter that was trained for an epoch, in this test's registry."""

    def make() -> str:
        from mwactl.config import load_recipe
        from mwactl.registry import Registry
        from mwactl.workflow.train import train_recipe

        recipe = load_recipe(str(tiny_recipe), ["train.epochs=1", "train.lr=0.05"])
        return train_recipe(Registry.default(), recipe).entry.reference

    return made_once("tiny-mwa", make)


_TRACED: dict[tuple[Any, ...], Any] = {}


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model's graph is not traced again: that takes seconds, and is the business of other tests."""
    from mwactl.backbone.fingerprint import tensors_digest
    from mwactl.export import towers

    def remembered(trace: Callable[..., Any]) -> Callable[..., Any]:
        def traced(model: Any, *arguments: Any, **options: Any) -> Any:
            key = (trace.__name__, tensors_digest(model.state_dict()), *sorted(map(str, options.items())))
            if key not in _TRACED:
                _TRACED[key] = trace(model, *arguments, **options)
            return _TRACED[key]

        return traced

    for name in ("trace_image", "trace_text"):
        monkeypatch.setattr(towers, name, remembered(getattr(towers, name)))


# -- what the tests of every backbone family use ---------------------------------------------------------------------


_TINY_BEIT3 = {
    "width": 32, "layers": 2, "heads": 4, "hidden": 48, "image_size": 48, "vocabulary": 100, "text_positions": 66,
}  # fmt: skip
_TINY_VLMO = {
    "width": 32, "layers": 3, "heads": 4, "hidden": 48, "image_size": 64, "vocabulary": 60, "text_length": 24,
    "bias_text_length": 30, "first_joint_block": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> dict[str, str]:
    """The name of a tiny backbone of each family, with random weights on request."""
    import torch

    torch.set_num_threads(1)  # matrices this small are slower on more
    folder = tmp_path_factory.mktemp("backbones")
    for family, sizes in {"beit3": _TINY_BEIT3, "vlmo": _TINY_VLMO}.items():
        (folder / family).mkdir()
        (folder / family / "config.json").write_text(json.dumps(sizes))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog"]
    (folder / "vlmo" / "vocab.txt").write_text("\n".join(words) + "\n")
    names = {family: f"{family}:local-dir:{folder / family}" for family in ("beit3", "vlmo")}
    return {**names, "clip": f"clip:local-dir:{tiny_clip}"}


@pytest.fixture
def embed(
    pixels: Tensor, captions: list[str]
) -> Callable[[Backbone | AdaptedModel | MergedModel], tuple[Tensor, Tensor]]:
    """embed(model): the picture and caption embeddings, as an evaluation computes them, of the family's own fixtures.

    Without gradients: torch's attention takes another path, with other last bits, where a gradient is needed.
    """
    import torch

    from mwactl.backbone.contract import Backbone

    @torch.inference_mode()
    def both(model: Backbone | AdaptedModel | MergedModel) -> tuple[Tensor, Tensor]:
        backbone = model if isinstance(model, Backbone) else model.backbone
        return model.encode_image(pixels), model.encode_text(backbone.tokenize(captions))

    return both


@pytest.fixture
def picture() -> Image.Image:
    import torch
    from PIL import Image

    noise = torch.randint(256, (50, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return Image.fromarray(noise.numpy())


@pytest.fixture
def train_a_little() -> Callable[[AdaptedModel], None]:
    """Move every trained parameter, as training would."""
    import torch

    def move(model: AdaptedModel) -> None:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    return move


@pytest.fixture
def trained(train_a_little: Callable[[AdaptedModel], None]) -> Callable[..., AdaptedModel]:
    """trained(backbone, **options): the backbone with a MultiWay-Adapter that adds something."""
    from mwactl.adapter import inject
    from mwactl.config.recipe import MethodConfig, MwaConfig

    def adapt(backbone: Backbone, **options: Any) -> AdaptedModel:
        model = inject(backbone, MethodConfig(mwa=MwaConfig(**options)))
        train_a_little(model)
        return model

    return adapt


@pytest.fixture
def difference(
    embed: Callable[..., tuple[Tensor, Tensor]],
) -> Callable[..., float]:
    """difference(model, rows): how far its unit embeddings are from those that `embed` gave, the largest component."""
    from mwactl.backbone.contract import unit_rows

    def largest(model: Backbone | AdaptedModel | MergedModel, rows: tuple[Tensor, Tensor]) -> float:
        pairs = zip(embed(model), rows, strict=True)
        return max((unit_rows(found) - unit_rows(expected)).abs().max().item() for found, expected in pairs)

    return largest


@pytest.fixture
def without_one_module(difference: Callable[..., float]) -> Callable[..., Iterator[tuple[str, float]]]:
    """without_one_module(merged, rows): each module of the adapter's and how far the embeddings are without it."""
    import torch

    from mwactl.adapter.fold import FoldedFeedForward

    def each(merged: MergedModel, rows: tuple[Tensor, Tensor]) -> Iterator[tuple[str, float]]:
        for name, module in merged.named_modules():
            if not isinstance(module, FoldedFeedForward):
                continue
            hosts = 0 if name.startswith("branches.") else module.parts[0].units
            with torch.no_grad():
                before = module.fc2.weight.clone()
                module.fc2.weight[:, hosts:] = 0
                yield name, difference(merged, rows)
                module.fc2.weight.copy_(before)

    return each


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a connection or asking for an address fails the test, whoever swallows the error."""

    def refuse(*arguments: Any, **_: Any) -> None:
        pytest.fail(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def merged_like_adapted(
    trained: Callable[..., AdaptedModel],
    embed: Callable[..., tuple[Tensor, Tensor]],
    difference: Callable[..., float],
    captions: list[str],
) -> Callable[..., None]:
    """merged_like_adapted(backbone, options): a merged model computes what the adapted one does, and that is something.

    `padded`: how far embeddings of padded captions, which are not of length one, may lie apart.
    """
    import torch

    from mwactl.adapter import fold

    def check(backbone: Backbone, options: dict[str, Any], *, padded: float = 1e-5) -> None:
        bare = embed(backbone)
        adapted = trained(backbone, **options)
        rows, tokens = embed(adapted), backbone.tokenize(captions)
        expected = adapted.encode_padded_text(tokens)
        merged = fold(adapted)
        assert difference(merged, rows) <= 1e-5
        assert torch.allclose(merged.encode_padded_text(tokens), expected, atol=padded)
        assert difference(merged, bare) > 1e-3

    return check


@pytest.fixture
def every_module_counts(
    trained: Callable[..., AdaptedModel],
    embed: Callable[..., tuple[Tensor, Tensor]],
    without_one_module: Callable[..., Iterator[tuple[str, float]]],
) -> Callable[[Backbone], int]:
    """every_module_counts(backbone): without any one of its modules a merged model is another; gives their number."""
    from mwactl.adapter import fold

    def check(backbone: Backbone) -> int:
        adapted = trained(backbone, knowledge_extractor=6, alignment_enhancer=10)
        count = sum(adapted.adapter.module_counts().values()) if adapted.adapter else 0
        rows = embed(adapted)
        found = list(without_one_module(fold(adapted), rows))
        assert len(found) == count
        assert all(difference > 1e-4 for _, difference in found), found
        return count

    return check


@pytest.fixture
def same_structure_without_weights(
    trained: Callable[..., AdaptedModel], embed: Callable[..., tuple[Tensor, Tensor]]
) -> Callable[..., None]:
    """same_structure_without_weights(name, backbone, options): a fold without weights takes the tensors of one with.

    `name` is what the same backbone is called, to be built again.
    """
    import torch

    from mwactl.adapter import fold, inject
    from mwactl.backbone import find_spec

    def check(name: str, backbone: Backbone, options: dict[str, Any]) -> None:
        adapted = trained(backbone, **options)
        method = adapted.method
        merged = fold(adapted)
        plugin, spec = find_spec(name)
        empty = fold(inject(plugin.build_without_weights(spec), method))
        assert empty.kept == merged.kept
        empty.load_complete_state(merged.complete_state(), where="a test")
        assert not any(tensor.is_meta for tensor in empty.complete_state().values())
        for found, expected in zip(embed(empty), embed(merged), strict=True):
            assert torch.equal(found, expected)

    return check


@pytest.fixture
def graphs_like_adapted(
    train_a_little: Callable[[AdaptedModel], None], tmp_path: Path
) -> Callable[[Backbone], set[int]]:
    """graphs_like_adapted(backbone): its graphs compute what it computes adapted; gives each tower's quantised maps.

    Of any number of pictures and captions, of any length: `trace_towers` checks it; here it is shown to check.
    """
    from mwactl.adapter import fold, inject
    from mwactl.config.recipe import MethodConfig, MwaConfig
    from mwactl.errors import VerificationError
    from mwactl.export.check import check_graph
    from mwactl.export.graph import TOWERS
    from mwactl.export.parity import TOLERANCES
    from mwactl.export.quantise import quantise
    from mwactl.export.towers import examples_of, trace_towers
    from mwactl.progress import Silent

    def check(backbone: Backbone) -> set[int]:
        method = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8))
        adapted, portable = inject(backbone, method), backbone.portable()
        untrained = examples_of(adapted, backbone, portable)
        train_a_little(adapted)
        examples = examples_of(adapted, backbone, portable)
        traced = trace_towers(
            fold(adapted), backbone, portable, examples,
            dtype="fp32", opset=20, folder=tmp_path / "graphs", reporter=Silent(),
        )  # fmt: skip
        assert traced.text_length is None
        maps = set()
        for tower in TOWERS:
            with pytest.raises(VerificationError, match="from torch"):
                check_graph(traced.graphs[tower], tower, untrained[tower], TOLERANCES["fp32"])
            quantised = quantise(traced.graphs[tower], tmp_path / f"{tower}.onnx")
            # Every linear map but the last, which makes the embedding; those of packed rows as well.
            assert quantised.maps == quantised.of_maps - 1
            maps.add(quantised.maps)
        return maps

    return check
