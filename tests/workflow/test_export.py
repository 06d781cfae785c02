from __future__ import annotations

import copy
import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from mwactl.adapter import AdaptedModel
from mwactl.backbone import WeightsRequest
from mwactl.backbone.contract import unit_rows
from mwactl.config.recipe import MethodConfig
from mwactl.data import open_image
from mwactl.errors import ResourceError, UsageError, VerificationError
from mwactl.export import towers
from mwactl.export.exclusions import Block
from mwactl.export.gate import parse_gates
from mwactl.files import canonical_json
from mwactl.registry import Entry, Registry
from mwactl.runtime import RetrievalModel, load
from mwactl.workflow import export as exporting
from mwactl.workflow.export import ExportOptions, default_target, export_onnx
from mwactl.workflow.inject import inject_adapter
from mwactl.workflow.load import load_adapted
from mwactl.workflow.merge import merge_adapter
from mwactl.workflow.splits import CheckedSplit, checked_split

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.usefixtures("traced_once"),
]

INT8 = ExportOptions(dtype="int8", bounds=parse_gates(["top10=0"]))


@pytest.fixture
def adapter(registry: Registry, trained_adapter: str) -> Entry:
    return registry.resolve(trained_adapter)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture
def split(tiny_data: str, listener: Any) -> CheckedSplit:
    return checked_split(tiny_data, "train", on_error="stop", reporter=listener)


@torch.inference_mode()
def by_torch(model: Any, split: CheckedSplit) -> tuple[Any, Any]:
    backbone = model.backbone
    pixels = torch.stack([backbone.image_transform()(open_image(path)) for path in split.dataset.images])
    texts = model.encode_text(backbone.tokenize(split.dataset.captions))
    return unit_rows(model.encode_image(pixels)).numpy(), unit_rows(texts).numpy()


def by_bundle(model: RetrievalModel, split: CheckedSplit) -> tuple[Any, Any]:
    return model.encode_images(split.dataset.images), model.encode_texts(split.dataset.captions)


def distance(one: tuple[Any, Any], other: tuple[Any, Any]) -> float:
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(one, other, strict=True))


# -- what is exported -------------------------------------------------------------------------------------------------


def test_an_adapter_becomes_a_bundle_that_computes_the_same_without_torch(registry, adapter, target, split, listener):
    document = export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    model = load(target, device="cpu")
    adapted = load_adapted(registry, adapter)
    assert distance(by_bundle(model, split), by_torch(adapted, split)) < 1e-5
    bare = AdaptedModel(adapted.backbone, MethodConfig(name="head"), None)
    for site in adapted.backbone.sites():
        site.detach()
    assert distance(by_bundle(model, split), by_torch(bare, split)) > 1e-3
    assert model.identity == adapter.digest == document["identity"]
    assert model.preprocess_digest == adapted.backbone.portable().digest
    manifest = model.manifest
    assert manifest["model"]["reference"] == adapter.reference
    assert manifest["model"]["backbone"]["fingerprint"] == adapter.manifest["base"]["fingerprint"]
    assert manifest["logit_scale"] == pytest.approx(adapted.backbone.logit_scale.item())
    assert manifest["parity"]["recall"]["rsum"]["change"] == pytest.approx(0)
    assert manifest["measured_on"] == {
        "data": "tiny", "split": "train", "pictures": 24, "captions": 48, "packaged": False,
    }  # fmt: skip
    assert [document["folder"], document["kept"]] == [str(target), manifest["model"]["kept"]]


def test_a_merged_entry_is_exported_as_it_is(registry, adapter, target, split, listener):
    merged = merge_adapter(registry, adapter, name="whole")
    document = export_onnx(registry, merged.entry, target, ExportOptions(), split=split, reporter=listener)
    assert document["adapter"]["kind"] == "merged"
    assert not [said for said in listener.said if said.startswith("folding")]
    model = load(target, device="cpu")
    assert model.identity == merged.entry.digest
    assert distance(by_bundle(model, split), by_torch(load_adapted(registry, adapter), split)) < 2e-5


def test_without_data_it_is_measured_on_the_packaged_drawings(registry, adapter, target, listener):
    document = export_onnx(registry, adapter, target, ExportOptions(), reporter=listener)
    assert document["measured_on"]["pictures"] == 250
    assert document["parity"]["top10"] > 99
    assert document["parity"]["recall"] is None
    assert document["parity"]["image"]["max_abs"] <= 1e-5
    assert any(said.startswith("folding") for said in listener.said)


def test_an_untrained_adapter_is_exported_with_a_warning_here_in_fp16(registry, tiny_clip, target, split, listener):
    injection = inject_adapter(
        registry, f"clip:local-dir:{tiny_clip}", MethodConfig(), name="fresh", weights=WeightsRequest()
    )
    options = ExportOptions(dtype="fp16")
    document = export_onnx(registry, injection.entry, target, options, split=split, reporter=listener)
    assert any("warning: fresh@1 is untrained and adds nothing" in said for said in listener.said)
    model = load(target, device="cpu")
    assert model.verify()
    assert 1e-5 < distance(by_bundle(model, split), by_torch(injection.model, split)) < 2e-3
    assert document["tolerance"]["min_cosine"] == 0.9995
    assert document["sizes"]["text.onnx"] < 0.55 * (tiny_clip / "open_clip_model.safetensors").stat().st_size


def test_int8_is_another_identity_and_keeps_its_own_tolerance(registry, adapter, target, split, listener):
    document = export_onnx(registry, adapter, target, INT8, split=split, reporter=listener)
    model = load(target, device="cpu")
    assert model.identity == f"{adapter.digest}+int8"
    assert document["int8"]["towers"]["image"]["maps"] == 12
    assert document["gate"] == [{"metric": "top10", "bound": 0.0}]
    assert 0 < document["tolerance"]["min_cosine"] < document["parity"]["image"]["min_cosine"] < 0.99999
    assert model.verify()


def test_an_int8_identity_names_what_stayed_in_full_precision(registry, adapter, target, split, listener, monkeypatch):
    """Two mixtures compute other embeddings, so their collections must not be taken for each other's."""
    real = exporting.judge

    def sparing(*arguments: Any) -> Any:
        verdict = real(*arguments)
        return replace(verdict, int8=replace(verdict.int8, spared=(Block("image", "blocks.0"),)))

    monkeypatch.setattr(exporting, "judge", sparing)
    document = export_onnx(registry, adapter, target, INT8, split=split, reporter=listener)
    assert re.fullmatch(rf"{adapter.digest}\+int8:[0-9a-f]{{12}}", document["identity"])
    assert load(target, device="cpu").identity == document["identity"]


def test_only_so_many_pictures_are_measured(registry, adapter, target, split, listener):
    document = export_onnx(registry, adapter, target, ExportOptions(), split=split, limit=10, reporter=listener)
    assert (document["measured_on"]["pictures"], document["measured_on"]["captions"]) == (10, 20)


# -- what is kept of it -----------------------------------------------------------------------------------------------


def test_the_document_is_kept_with_the_entry_without_paths(registry, adapter, target, split, listener):
    document = export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    (attached,) = registry.attachments(adapter, "export")
    assert attached["document"] == {key: value for key, value in document.items() if key != "folder"}
    assert str(target.parent) not in json.dumps(attached["document"])


def test_a_registry_that_cannot_be_written_to_does_not_take_the_bundle_back(
    registry, adapter, target, split, listener, monkeypatch
):
    def refuse(*_: Any) -> str:
        raise ResourceError("the registry is locked")

    monkeypatch.setattr(Registry, "attach", refuse)
    export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    assert any("could not be noted" in said for said in listener.said)
    assert load(target, device="cpu").verify()


def test_exporting_again_gives_the_same_bytes(registry, adapter, tmp_path, split, listener):
    for name in ("one", "two"):
        export_onnx(registry, adapter, tmp_path / name, ExportOptions(), split=split, reporter=listener)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert len(registry.attachments(adapter, "export")) == 1


def test_nothing_of_this_machine_is_in_a_bundle(registry, adapter, target, split, listener, tiny_clip, empty_home):
    export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    for path in target.iterdir():
        data = path.read_bytes()
        for trace in (target.parent, tiny_clip, empty_home, Path.cwd(), split.dataset.images[0].parent):
            assert str(trace).encode() not in data, (path.name, trace)


def test_a_folder_that_is_exported_is_called_by_its_name_alone(
    registry, adapter, target, split, listener, tiny_clip, tmp_path, monkeypatch
):
    """Where it lies is nobody's business who gets the bundle."""
    folder = tmp_path / "secret" / "mine"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(canonical_json(adapter.manifest))
    for file in adapter.manifest["files"]:
        (folder / file["path"]).write_bytes(registry.read(adapter, file["path"]))
    monkeypatch.chdir(folder)
    for typed in (str(folder), "./"):
        entry = registry.resolve(typed)
        document = export_onnx(
            registry, entry, target, ExportOptions(force=True),
            split=split, backbone_name=f"clip:local-dir:{tiny_clip}", reporter=listener,
        )  # fmt: skip
        assert document["adapter"]["reference"] == load(target, device="cpu").manifest["model"]["reference"] == "mine"
        assert default_target(entry, "fp16") == Path("mine-onnx-fp16")
        for path in target.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes(), (typed, path.name)


# -- nothing is written that was not proven ---------------------------------------------------------------------------


def refuses(error: type[Exception], match: str, target: Path, run: Callable[[], object]) -> None:
    with pytest.raises(error, match=match):
        run()
    assert not target.exists()
    assert [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}")] == []


def test_a_graph_that_is_not_the_model_is_not_written(registry, adapter, target, split, listener, monkeypatch):
    """A linear map that is lost on the way to the graph."""
    real = towers.trace_text

    def forgetful(*arguments: Any, **options: Any) -> Any:
        graph, length = real(*arguments, **options)
        graph = copy.deepcopy(graph)
        lost = next(tensor for tensor in graph.graph.initializer if list(tensor.dims) == [8, 32])
        lost.CopyFrom(numpy_helper.from_array(np.zeros((8, 32), np.float32), lost.name))
        return graph, length

    monkeypatch.setattr(towers, "trace_text", forgetful)
    refuses(
        VerificationError, "the text tower does not compute what torch computes", target,
        lambda: export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener),
    )  # fmt: skip
    assert registry.attachments(adapter, "export") == []


def test_other_pixels_are_found_out(registry, adapter, target, split, listener, monkeypatch):
    """The graphs are right, but the runtime prepares pictures in another way."""
    real = RetrievalModel.pixels
    monkeypatch.setattr(RetrievalModel, "pixels", lambda model, images: real(model, images) * np.float32(1.01))
    refuses(
        VerificationError, "too far from torch; nothing was written", target,
        lambda: export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener),
    )  # fmt: skip


def test_a_gate_that_int8_fails_leaves_nothing(registry, adapter, target, split, listener):
    options = ExportOptions(dtype="int8", bounds=parse_gates(["top10=100"]))
    refuses(
        VerificationError, r"int8 costs more than is allowed.*top-10 agreement", target,
        lambda: export_onnx(registry, adapter, target, options, reporter=listener),
    )  # fmt: skip


@pytest.mark.parametrize("options", [ExportOptions(dtype="int8"), ExportOptions(bounds=parse_gates(["top10=1"]))])
def test_agreement_cannot_be_asked_of_few_pictures(registry, adapter, target, split, listener, monkeypatch, options):
    """Of 24 pictures any two models share ten of the nearest ten often enough: such a gate would let all through."""
    refuses(
        UsageError, "top-10 agreement needs 100 pictures or more; 24 are measured.*leave out --data", target,
        lambda: export_onnx(registry, adapter, target, options, split=split, reporter=listener),
    )  # fmt: skip
    monkeypatch.setattr(exporting, "FEWEST_PICTURES", 20)
    refuses(
        UsageError, "needs 20 pictures or more; 10 are measured.*--limit 20", target,
        lambda: export_onnx(registry, adapter, target, options, split=split, limit=10, reporter=listener),
    )  # fmt: skip


def test_a_place_that_is_none_is_refused(registry, adapter, tmp_path, split, listener, monkeypatch):
    (tmp_path / "captions.csv").write_text("")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for place in ("../captions.csv/x", "/proc/x", "", "."):
        with pytest.raises(UsageError):
            export_onnx(registry, adapter, Path(place), ExportOptions(), split=split, reporter=listener)
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == []


def test_what_is_there_is_refused_before_any_work(registry, adapter, target, split, listener):
    export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    before = (target / "manifest.json").read_bytes()
    listener.said.clear()
    with pytest.raises(UsageError, match="there is a bundle already"):
        export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    assert listener.said == []
    assert (target / "manifest.json").read_bytes() == before
    export_onnx(registry, adapter, target, replace(INT8, force=True), split=split, reporter=listener)
    assert load(target, device="cpu").manifest["dtype"] == "int8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(opset=17), "--opset 17"),
        (ExportOptions(opset=99), "--opset 99"),
        (ExportOptions(bounds=parse_gates(["rsum=1"])), "a gate on recall needs data"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_work(registry, adapter, target, listener, options, message):
    refuses(UsageError, message, target, lambda: export_onnx(registry, adapter, target, options, reporter=listener))
    assert listener.said == []


def test_killed_at_a_step_leaves_no_bundle_and_the_next_export_is_whole(
    registry, adapter, target, split, listener, monkeypatch
):
    for step in ("encode_split", "judge", "publish"):
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(exporting, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            torch.set_num_threads(1)
            export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, step
        assert not target.exists(), step
    export_onnx(registry, adapter, target, ExportOptions(), split=split, reporter=listener)
    assert sorted(path.name for path in target.parent.iterdir() if "bundle" in path.name) == ["bundle"]
    assert load(target, device="cpu").verify()


def test_the_default_folder_is_named_after_what_is_exported(adapter):
    assert default_target(adapter, "fp32") == Path(f"{adapter.reference}-onnx")
    assert default_target(adapter, "int8") == Path(f"{adapter.reference}-onnx-int8")
