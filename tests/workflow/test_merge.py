from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.adapter import MergedModel, inject
from mwactl.adapter.fold import FoldedFeedForward
from mwactl.adapter.modules import KnowledgeExtractor
from mwactl.backbone import WeightsRequest
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.fingerprint import fingerprint
from mwactl.backbone.safetensors_bytes import SafetensorsBytes
from mwactl.config.recipe import MethodConfig
from mwactl.data import Catalogue
from mwactl.errors import IncompatibleError, NotFoundError, UsageError, VerificationError
from mwactl.registry import Entry, Registry
from mwactl.workflow import merge as merging
from mwactl.workflow.evaluate import EvaluationOptions, check_unseen, evaluate_adapter
from mwactl.workflow.inject import publish_untrained
from mwactl.workflow.load import build_backbone, load_adapted, load_model
from mwactl.workflow.merge import Merge, merge_adapter
from mwactl.workflow.splits import CheckedSplit, checked_split

OPTIONS = EvaluationOptions(device="cpu", workers=0)


@torch.inference_mode()
def rows(model: Any) -> tuple[Tensor, Tensor]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = model.backbone.tokenize(["a dog", "two cats on a mat", "snow"])
    return unit_rows(model.encode_image(pixels)), unit_rows(model.encode_text(tokens))


def distance(one: Any, other: Any) -> float:
    return max((a - b).abs().max().item() for a, b in zip(rows(one), rows(other), strict=True))


@pytest.fixture
def own_clip(tmp_path: Path, tiny_clip: Path, tiny_recipe: Path) -> Path:
    """The tiny model in a folder of its own, to be changed; the recipe names it."""
    folder = Path(shutil.copytree(tiny_clip, tmp_path / "own-clip"))
    tiny_recipe.write_text(tiny_recipe.read_text().replace(str(tiny_clip), str(folder)))
    return folder


@pytest.fixture
def adapter(request: pytest.FixtureRequest, registry: Registry) -> Entry:
    """Of the model in a folder of its own for the tests that change it."""
    if "own_clip" not in request.fixturenames:
        return registry.resolve(request.getfixturevalue("trained_adapter"))
    request.getfixturevalue("own_clip")
    entry: Entry = request.getfixturevalue("train")("train.epochs=1", "train.lr=0.05").entry
    return entry


@pytest.fixture
def merged(registry: Registry, adapter: Entry) -> Merge:
    return merge_adapter(registry, adapter, name="tiny-merged")


def test_a_merged_version_computes_what_the_adapter_does_without_any_weights_of_the_backbone(
    registry: Registry, adapter: Entry, merged: Merge, own_clip: Path
) -> None:
    adapted = load_adapted(registry, adapter)
    (own_clip / "open_clip_model.safetensors").unlink()
    loaded = load_model(registry, registry.resolve("tiny-merged"))
    assert isinstance(loaded, MergedModel)
    assert distance(loaded, adapted) <= 1e-5
    assert merged.equality.moved is not None
    assert merged.equality.max_abs <= 1e-5 and merged.equality.moved > 1e-3


def test_its_manifest_says_what_it_was_made_from_and_what_stayed(adapter: Entry, merged: Merge) -> None:
    manifest = merged.entry.manifest
    assert (manifest["kind"], manifest["parents"]) == ("merged", [adapter.digest])
    assert [file["path"] for file in manifest["files"]] == ["model.safetensors"]
    assert (manifest["base"], manifest["method"]) == (adapter.manifest["base"], adapter.manifest["method"])
    assert manifest["merged"]["kept"] == list(merged.model.kept) != []
    assert manifest["tensors"]["parameters"] == merged.model.count_parameters()
    assert str(Path.home()) not in str(manifest) and "/tmp" not in str(manifest)


def test_the_file_has_every_tensor_and_saving_what_was_loaded_gives_the_same_bytes(
    registry: Registry, merged: Merge
) -> None:
    file = registry.read(merged.entry, "model.safetensors")
    assert safetensors.torch.load(file).keys() == merged.model.complete_state().keys()
    loaded = load_model(registry, merged.entry)
    assert isinstance(loaded, MergedModel)
    assert "backbone.model.attn_mask" in loaded.complete_state()  # which no state dict has
    assert b"".join(SafetensorsBytes(loaded.complete_state()).chunks()) == file


def test_merging_again_gives_the_version_there_is(registry: Registry, adapter: Entry, merged: Merge) -> None:
    again = merge_adapter(registry, adapter, name="tiny-merged")
    assert again.entry == merged.entry
    assert registry.versions("tiny-merged") == [1]


def test_a_name_that_is_none_is_refused_before_anything_is_loaded(
    registry: Registry, adapter: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "load_adapted", lambda *_, **__: pytest.fail("the adapter was loaded"))
    with pytest.raises(UsageError, match="cannot be a name"):
        merge_adapter(registry, adapter, name="bad name/..")


@pytest.mark.parametrize("method", ["head", "full"])
def test_a_baseline_can_be_merged_too(train: Callable[..., Any], registry: Registry, method: str) -> None:
    entry = train(f"method.name={method}", "train.epochs=1", "train.lr=0.05").entry
    done = merge_adapter(registry, entry, name="baseline-merged")
    assert done.model.kept == () and done.equality.moved is None and done.equality.max_abs == 0
    assert distance(load_model(registry, done.entry), load_adapted(registry, entry)) <= 1e-6


def test_it_is_compared_on_the_users_own_pictures_too(registry: Registry, adapter: Entry, tiny_data: str, listener):
    split = checked_split(tiny_data, "test", on_error="stop", reporter=listener)
    done = merge_adapter(registry, adapter, name="tiny-merged", split=split, reporter=listener)
    found = done.equality.as_dict()
    assert (found["pictures"], found["captions"]) == (32 + 8, 32 + 16)
    assert found["data"] == {"name": "tiny", "split": "test"}


def test_a_fold_that_loses_something_is_not_published(
    registry: Registry, adapter: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = merging.fold

    def broken(model: Any) -> MergedModel:
        merged = fold(model)
        block = next(each for each in merged.backbone.modules() if isinstance(each, FoldedFeedForward))
        block.fc2.weight[:, block.parts[0].units :] = 0
        return merged

    monkeypatch.setattr(merging, "fold", broken)
    with pytest.raises(VerificationError, match="does not compute what tiny-mwa@2 computes") as raised:
        merge_adapter(registry, adapter, name="tiny-merged")
    assert raised.value.exit_code == 5
    assert registry.versions("tiny-merged") == []


def test_embeddings_that_are_no_numbers_are_not_published(
    registry: Registry, adapter: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = merging.fold

    def broken(model: Any) -> MergedModel:
        merged = fold(model)
        merged.backbone.model.visual.proj.fill_(float("nan"))  # type: ignore[union-attr]
        return merged

    monkeypatch.setattr(merging, "fold", broken)
    with pytest.raises(VerificationError, match="nothing was published"):
        merge_adapter(registry, adapter, name="tiny-merged")


def test_an_untrained_adapter_merges_to_the_backbone_and_it_is_said(
    train: Callable[..., Any], registry: Registry, adapter: Entry, listener
) -> None:
    done = merge_adapter(registry, registry.resolve("tiny-mwa@1"), name="nothing", reporter=listener)
    assert done.equality.moved == 0
    assert any("the merged model is the backbone" in said for said in listener.said)


def test_a_merged_version_is_no_adapter(registry: Registry, merged: Merge) -> None:
    with pytest.raises(IncompatibleError, match="tiny-merged@1 is no adapter") as raised:
        merge_adapter(registry, merged.entry, name="twice")
    assert raised.value.exit_code == 4
    with pytest.raises(UsageError, match="needs no --weights"):
        load_model(registry, merged.entry, weights="random")


def test_a_damaged_file_is_refused(registry: Registry, merged: Merge) -> None:
    digest = merged.entry.manifest["files"][0]["sha256"]
    blob = registry.root / "blobs" / "sha256" / digest[:2] / digest
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(VerificationError, match="corrupt") as raised:
        load_model(registry, merged.entry)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_a_file_with_other_tensors_is_refused(registry: Registry, merged: Merge, change: str) -> None:
    state = merged.model.complete_state()
    name = next(iter(state))
    if change == "missing":
        del state[name]
    else:
        state[name if change == "misshapen" else "more"] = torch.ones(1, 2, 3)
    facts = {key: merged.entry.manifest[key] for key in ("method", "base", "tensors", "merged")}
    entry = registry.publish(
        "other", kind="merged", files={"model.safetensors": SafetensorsBytes(state)}, facts=facts, verb="merge"
    )
    with pytest.raises(IncompatibleError, match="not those of a merged") as raised:
        load_model(registry, entry, backbone_name=merged.model.backbone.spec.name)
    assert raised.value.exit_code == 4


def test_a_configuration_that_has_changed_since_is_refused(registry: Registry, merged: Merge, own_clip: Path) -> None:
    file = own_clip / "open_clip_config.json"
    file.write_text(file.read_text().replace('"embed_dim"', '"quick_gelu": true, "embed_dim"', 1))
    with pytest.raises(IncompatibleError, match="was made from another") as raised:
        load_model(registry, merged.entry)
    assert raised.value.exit_code == 4


def test_a_folder_that_has_moved_can_be_named(registry: Registry, merged: Merge, own_clip: Path, tmp_path: Path):
    before = rows(load_model(registry, merged.entry))
    own_clip.rename(tmp_path / "moved")
    with pytest.raises(NotFoundError) as raised:
        load_model(registry, merged.entry)
    assert "--backbone clip:local-dir:FOLDER" in str(raised.value.fix)
    after = rows(load_model(registry, merged.entry, backbone_name=f"clip:local-dir:{tmp_path / 'moved'}"))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_random_weights_need_not_be_made_again(train: Callable[..., Any], registry: Registry) -> None:
    entry = train("backbone.weights=random", "backbone.weights_seed=7", "train.epochs=1", "train.lr=0.05").entry
    done = merge_adapter(registry, entry, name="random-merged")
    assert distance(load_model(registry, done.entry), load_adapted(registry, entry)) <= 1e-5


def test_it_is_evaluated_like_the_adapter_and_the_result_stays_with_it(
    registry: Registry, adapter: Entry, merged: Merge, tiny_data: str, listener
) -> None:
    split = checked_split(tiny_data, "test", on_error="stop", reporter=listener)
    of_adapter = evaluate_adapter(registry, adapter, split, OPTIONS, listener).document
    of_merged = evaluate_adapter(registry, merged.entry, split, OPTIONS, listener).document
    assert of_merged["rsum"] == pytest.approx(of_adapter["rsum"], abs=0.1)
    assert of_merged["backbone"] == of_adapter["backbone"]
    assert registry.attachments(merged.entry, "evaluation")[-1]["document"] == of_merged


def test_what_its_adapter_was_trained_on_is_not_zero_shot_for_it(
    registry: Registry, merged: Merge, tiny_data: str, listener
) -> None:
    split = checked_split(tiny_data, "test", on_error="stop", reporter=listener)
    with pytest.raises(VerificationError, match="not zero-shot on tiny"):
        check_unseen(registry, merged.entry, split)


def test_a_kept_branch_is_part_of_the_file(train: Callable[..., Any], registry: Registry) -> None:
    """Without a norm, extractors of a pre-LN block stay branches; they must come back from the file."""
    entry = train("method.mwa.layer_norm=false", "train.epochs=1", "train.lr=0.05").entry
    adapted = load_adapted(registry, entry)
    extractors = [module for module in adapted.modules() if isinstance(module, KnowledgeExtractor)]
    done = merge_adapter(registry, entry, name="branches-merged")
    kept = {name.rsplit(".", 2)[0] for name in done.model.complete_state() if ".knowledge_extractor." in name}
    assert len(kept) == len(extractors) == 4
    assert distance(load_model(registry, done.entry), adapted) <= 1e-5


@pytest.mark.shared
def test_on_real_weights_and_photographs_nothing_changes(registry: Registry, shared: Path) -> None:
    backbone = build_backbone(f"clip:local-dir:{shared / 'backbones' / 'dinov2s-minilm'}", WeightsRequest())
    identity = fingerprint(backbone)
    model = inject(backbone, MethodConfig())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    entry = publish_untrained(registry, model, identity, name="real")
    flickr = shared / "data" / "flickr8k"
    annotations, images = flickr / "dataset_flickr8k.json", flickr / "images"
    whole = Catalogue.default().add("flickr8k", format="karpathy", annotations=annotations, images=images).load("test")
    dataset = whole.without(range(8, len(whole.images)))
    done = merge_adapter(registry, entry, name="real-merged", split=CheckedSplit(dataset, [None] * 8))
    assert (len(done.equality.material.pictures), len(done.equality.material.captions)) == (32 + 8, 32 + 40)
    assert done.equality.max_abs <= 1e-5
    assert done.equality.moved is not None and done.equality.moved > 1e-2
