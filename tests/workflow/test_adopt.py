"""Adopting: everything is kept, or nothing. With a plugin that reads a made-up program's files for the tiny CLIP."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone import BackboneSpec, WeightsRequest, find_spec
from mwactl.backbone.checkpoint import read_checkpoint
from mwactl.backbone.digests import known_sha256, recorded_sha256
from mwactl.backbone.spec import ForeignAdapter, ImportHints, ImportsAdapters
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import IncompatibleError, NotFoundError, ResourceError, UsageError, VerificationError
from mwactl.home import weights_path
from mwactl.registry import Registry
from mwactl.workflow import adopt
from mwactl.workflow.adopt import Adoption, adopt_adapter, plan_adoption
from mwactl.workflow.load import build_backbone, load_adapted

OPTIONS = {"preset": "authors-code", "knowledge_extractor": 4, "alignment_enhancer": 0, "alpha": 0.6}


class Importer:
    """What a plugin needs to import: here for files whose adapter tensors start with `adapter.`."""

    def __init__(self, backbone: str) -> None:
        self.backbone = backbone
        self.options: dict[str, Any] = OPTIONS
        self.heard: list[tuple[BackboneSpec | None, ImportHints]] = []

    def read_foreign(self, file: Path, spec: BackboneSpec | None, hints: ImportHints) -> ForeignAdapter | None:
        self.heard.append((spec, hints))
        checkpoint = read_checkpoint(file)
        adapter = {key: value for key, value in checkpoint.state.items() if key.startswith("adapter.")}
        weights = {key: value for key, value in checkpoint.state.items() if key not in adapter}
        return ForeignAdapter(self.backbone, self.options, adapter, weights, checkpoint.sha256) if adapter else None


@pytest.fixture
def name(tiny_clip: Path) -> str:
    return f"clip:local-dir:{tiny_clip}"


@pytest.fixture
def importer(name: str, monkeypatch: pytest.MonkeyPatch) -> Importer:
    """The only family that can import, beside one that cannot."""
    importer = Importer(name)
    monkeypatch.setattr(adopt, "plugins", lambda: {"clip": find_spec(name)[0], "other": importer})
    return importer


@pytest.fixture
def trained(name: str) -> AdaptedModel:
    """What the other program computes: the tiny CLIP with other values, and an adapter that acts."""
    model = inject(build_backbone(name, WeightsRequest("random", seed=3)), MethodConfig(mwa=MwaConfig(**OPTIONS)))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def write(tmp_path: Path, trained: AdaptedModel) -> Callable[..., Path]:
    """write(name=…, **changed tensors): the other program's file."""

    def save(stem: str = "best", **changed: Tensor) -> Path:
        backbone = {key.removeprefix("model."): value for key, value in trained.backbone.state_dict().items()}
        state = {key: value.clone() for key, value in (backbone | trained.adapter_state() | changed).items()}
        path = tmp_path / f"{stem}.safetensors"
        safetensors.torch.save_file(state, path)
        return path

    return save


def take(registry: Registry, file: Path, name: str = "mine") -> Adoption:
    return adopt_adapter(registry, plan_adoption(file, name=name))


def kept() -> list[str]:
    return sorted(path.name for path in weights_path().iterdir()) if weights_path().is_dir() else []


@torch.inference_mode()
def embeddings(model: AdaptedModel) -> tuple[Tensor, Tensor]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model.encode_image(pixels), model.encode_text(model.backbone.tokenize(["a dog", "two cats"]))


def first_tensor(trained: AdaptedModel) -> str:
    return next(key for key in trained.adapter_state() if key.endswith("up.weight"))


def test_an_adopted_adapter_computes_what_its_program_did(registry: Registry, importer, write, trained) -> None:
    done = take(registry, write())
    entry = done.injection.entry
    assert entry is not None
    assert entry.reference == "mine@1"
    loaded = load_adapted(registry, entry)
    for ours, theirs in zip(embeddings(loaded), embeddings(trained), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_its_manifest_says_where_it_came_from_and_that_no_training_is_known(registry, importer, write) -> None:
    file = write()
    done = take(registry, file)
    manifest = registry.resolve("mine").manifest
    assert (manifest["train"], manifest["data"], manifest["metrics"], manifest["parents"]) == (None, [], [], [])
    assert manifest["imported"] == {
        "from": "authors", "file": "best.safetensors", "sha256": known_sha256(file), "assumed": [],
    }  # fmt: skip
    assert manifest["base"]["weights"] == {
        "source": "file", "file_sha256": known_sha256(done.backbone_file), "seed": None,
    }  # fmt: skip
    assert [line["verb"] for line in registry.history("mine")] == ["import", "attach"]


def test_its_manifest_spells_out_what_the_preset_stands_for(registry, importer, write) -> None:
    take(registry, write())
    config = registry.resolve("mine").manifest["method"]["config"]["mwa"]
    assert (config["alpha"], config["layer_norm"], config["dropout"]) == (0.6, False, 0.1)


def test_a_manifest_that_names_other_options_than_the_tensors_is_refused(registry, importer, write) -> None:
    entry = take(registry, write()).injection.entry
    assert entry is not None
    entry.manifest["method"]["config"]["mwa"]["layer_norm"] = True
    with pytest.raises(IncompatibleError, match=r"norm\.bias is missing"):
        load_adapted(registry, entry)


def test_the_backbone_is_kept_once_under_the_files_name_with_its_digest(registry, importer, write) -> None:
    file = write("their model")
    first = take(registry, file).backbone_file
    stem = f"their model-backbone-{known_sha256(file)[:12]}.safetensors"
    assert kept() == [stem, f"{stem}.sha256"]
    assert recorded_sha256(first) == known_sha256(first)
    before = first.stat()
    assert take(registry, file, "other").injection.entry.reference == "other@1"
    after = first.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_again_is_the_same_version_and_another_file_the_next(registry, importer, write, trained) -> None:
    first = take(registry, write()).injection.entry
    assert take(registry, write()).injection.entry == first
    key = first_tensor(trained)
    other = take(registry, write(**{key: trained.adapter_state()[key] + 1})).injection.entry
    assert other.reference == "mine@2"


@pytest.mark.parametrize("damage", ["bytes", "record"])
def test_a_damaged_backbone_file_is_made_again(registry, importer, write, trained, damage) -> None:
    kept_file = take(registry, write()).backbone_file
    if damage == "bytes":
        kept_file.write_bytes(kept_file.read_bytes()[:-1])
    else:
        kept_file.with_name(f"{kept_file.name}.sha256").write_text("?")
    entry = take(registry, write()).injection.entry
    assert entry.reference == "mine@1"
    assert recorded_sha256(kept_file) == known_sha256(kept_file)
    load_adapted(registry, entry)


def test_a_plan_counts_the_same_and_keeps_nothing(registry, importer, write, trained) -> None:
    plan = plan_adoption(write(), name="mine").as_dict()
    assert plan["trainable_parameters"] == trained.trainable_count()
    assert (plan["adapter"], plan["name"]) == (None, "mine")
    assert kept() == []
    assert registry.entries() == []
    done = take(registry, write()).as_dict()
    for key in ("trainable_parameters", "sites", "modules", "options", "imported", "backbone_file"):
        assert plan[key] == done[key]


def test_hints_and_the_named_backbone_reach_the_plugin(importer, write, name, monkeypatch) -> None:
    _, spec = find_spec(name)
    plan_adoption(write(), hints=ImportHints(alpha=0.5, layer_norm="in"))
    assert importer.heard == [(None, ImportHints(0.5, "in"))]

    class Both:
        """The named family's plugin, which can also import."""

        build_without_weights = staticmethod(find_spec(name)[0].build_without_weights)
        read_foreign = staticmethod(importer.read_foreign)

    monkeypatch.setattr(adopt, "find_spec", lambda _: (Both(), spec))
    plan_adoption(write(), backbone=name)
    assert importer.heard[1:] == [(spec, ImportHints())]


def test_without_a_name_it_is_called_after_its_backbone(importer, write, tiny_clip: Path) -> None:
    assert plan_adoption(write()).name == f"{tiny_clip.name}-authors"


# -- nothing is left after a failure ---------------------------------------------------------------------------------


def test_an_adapter_that_gives_no_numbers_is_not_kept(registry, importer, write, trained) -> None:
    key = first_tensor(trained)
    with pytest.raises(VerificationError, match="not finite"):
        take(registry, write(**{key: torch.full_like(trained.adapter_state()[key], torch.nan)}))
    assert kept() == []
    assert registry.entries() == []


def test_a_failed_publication_takes_the_backbone_file_back(registry, importer, write, monkeypatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("no space")

    monkeypatch.setattr(Registry, "publish", full)
    with pytest.raises(ResourceError):
        take(registry, write())
    assert kept() == []


def test_an_interrupt_takes_the_backbone_file_back_too(registry, importer, write, monkeypatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adopt, "check_active", interrupt)
    with pytest.raises(KeyboardInterrupt):
        take(registry, write())
    assert kept() == []


def test_a_failure_leaves_the_file_that_another_version_uses(registry, importer, write, monkeypatch) -> None:
    first = take(registry, write())
    files = kept()

    def inactive(_: AdaptedModel) -> float:
        raise VerificationError("it does not act")

    with monkeypatch.context() as patch:
        patch.setattr(adopt, "check_active", inactive)
        with pytest.raises(VerificationError):
            take(registry, write(), "other")
    assert kept() == files
    assert [entry.reference for entry in registry.entries()] == ["mine@1"]
    load_adapted(registry, first.injection.entry)


def test_an_adapter_that_does_not_fit_is_refused_by_the_plan_already(importer, write, trained) -> None:
    with pytest.raises(IncompatibleError, match="does not fit"):
        plan_adoption(write(**{first_tensor(trained): torch.zeros(3, 3)}))
    assert kept() == []


def test_a_name_that_cannot_be_is_refused_before_the_file_is_read(importer, write) -> None:
    with pytest.raises(UsageError):
        plan_adoption(write(), name="Not A Name")
    assert importer.heard == []


def test_a_file_that_no_family_knows_is_refused(importer, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(IncompatibleError, match="no adapter in this file"):
        plan_adoption(tmp_path / "w.safetensors")
    assert len(importer.heard) == 1


def test_a_family_that_cannot_import_is_not_asked(name, write) -> None:
    assert not isinstance(find_spec(name)[0], ImportsAdapters)
    with pytest.raises(IncompatibleError, match="cannot take over adapters of another program"):
        plan_adoption(write(), backbone=name)


def test_a_scale_that_is_no_number_is_a_usage_error(importer, write) -> None:
    with pytest.raises(UsageError, match="--alpha nan"):
        plan_adoption(write(), hints=ImportHints(alpha=math.nan))


def test_a_checkpoint_that_is_not_there_is_asked_for_by_its_own_option(tmp_path) -> None:
    for place in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(NotFoundError) as caught:
            plan_adoption(place)
        assert "--from-authors FILE" in str(caught.value.fix)
