from __future__ import annotations

import json
from pathlib import Path

import pytest

from mwactl.cli import export as command
from mwactl.errors import VerificationError
from mwactl.registry import Registry
from mwactl.workflow import export as workflow

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.usefixtures("traced_once"),
]


@pytest.fixture
def adapter(mwactl_cli, tiny_clip: Path) -> str:
    backbone = f"clip:local-dir:{tiny_clip}"
    return mwactl_cli("inject", "--backbone", backbone, "--name", "tiny-mwa", "-q").stdout.strip()


@pytest.fixture(scope="session")
def documents() -> dict[str, dict]:
    """What one real export said, for the tests of how it is shown."""
    return {}


@pytest.fixture
def exported(documents, monkeypatch):
    """Exports for real once; afterwards it says again what it said."""
    real = workflow.export_onnx

    def once(registry, entry, target, options, **more):
        if options.dtype not in documents:
            documents[options.dtype] = real(registry, entry, target, options, **more)
        return documents[options.dtype] | {"folder": str(target)}

    monkeypatch.setattr(workflow, "export_onnx", once)


def test_json_has_the_promised_keys(mwactl_cli, adapter, tiny_data, tmp_path, exported):
    target = tmp_path / "bundle"
    result = mwactl_cli("export", adapter, "--onnx", "-o", target, "--data", tiny_data, "--split", "train", "--json")
    assert result.code == 0, result.stderr
    document = result.json
    assert set(document) == {
        "schema", "adapter", "identity", "dtype", "opset", "text_length", "kept", "sizes", "parity", "tolerance",
        "measured_on", "gate", "int8", "replayed", "versions", "folder",
    }  # fmt: skip
    assert (document["schema"], document["folder"], document["opset"]) == (1, str(target), 20)
    assert document["adapter"]["reference"] == adapter
    assert set(document["parity"]["recall"]["t2i.R@1"]) == {"torch", "exported", "change"}
    assert json.loads((target / "manifest.json").read_text())["parity"] == document["parity"]


def test_it_says_how_near_it_is_and_what_to_do_next(mwactl_cli, adapter, tiny_data, tmp_path, exported):
    target = tmp_path / "bundle"
    result = mwactl_cli("export", adapter, "--onnx", "-o", target, "--data", tiny_data, "--split", "train")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"{adapter}   adapter, folded into its backbone"
    assert lines[1].startswith("image.onnx ")
    assert lines[1].endswith("opset 20   fp32   dynamic batch, length")
    assert lines[2].startswith("not folded: the Alignment Enhancers")
    assert lines[3].startswith("against torch   max |Δ| ")
    assert lines[3].endswith("top-10 agreement –   (tiny: 24 pictures, 48 captions) ✓")
    assert lines[4].startswith("i2t.R@1   torch ")
    assert lines[-1].startswith(f"written: {target}   ")
    assert result.stderr.endswith(f"next: mwactl verify {target}   or: mwactl embed {target} PICTURES -o COLLECTION\n")


def test_quiet_prints_the_folder_alone(mwactl_cli, adapter, tiny_data, tmp_path, exported, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = mwactl_cli("export", adapter, "--onnx", "--data", tiny_data, "--split", "train", "-q")
    assert (result.code, result.stdout) == (0, "tiny-mwa@1-onnx\n")


def test_without_a_reference_it_says_which_is_exported(mwactl_cli, adapter, tiny_data, tmp_path, exported):
    result = mwactl_cli("export", "--onnx", "-o", tmp_path / "b", "--data", tiny_data, "--split", "train")
    assert result.code == 0
    assert f"exporting the newest entry, {adapter}" in result.stderr


def test_int8_says_what_is_quantised_and_what_was_spared(mwactl_cli, documents, exported, capfd, adapter, tiny_data):
    mwactl_cli("export", adapter, "--onnx", "--data", tiny_data, "--split", "train", "-q", "-o", "unused")
    document = documents["fp32"] | {"dtype": "int8", "folder": "there"}
    document["gate"] = [{"metric": "t2i.R@1", "bound": 0.5}]
    towers = {tower: {"maps": 10, "of_maps": 13, "share": 0.634} for tower in ("image", "text")}
    document["int8"] = {"spared": [{"tower": "image", "name": "blocks.11"}], "towers": towers}
    command._describe(document, "2 s")
    lines = capfd.readouterr().out.splitlines()
    assert "image tower   10 of 13 linear maps in int8, 63 % of its numbers" in lines
    assert "spared, the most damaging first: image blocks.11" in lines
    assert "gate t2i.R@1=0.5 ✓" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--onnx is missing"),
        (["--onnx", "--dtype", "bf16"], "--dtype bf16: unknown"),
        (["--onnx", "--quantize", "int4"], "--quantize int4: unknown"),
        (["--onnx", "--quantize", "int8", "--dtype", "fp16"], "leaves the rest in fp32"),
        (["--onnx", "--gate", "R@1=1"], "--gate R@1=1: not a bound"),
        (["--onnx", "--gate", "t2i.R@1=1"], "a gate on recall needs data"),
        (["--onnx", "--opset", "11"], "--opset 11: not one that can be written"),
    ],
)
def test_mistakes_exit_2_before_any_work(mwactl_cli, adapter, tmp_path, arguments, message):
    result = mwactl_cli("export", adapter, "-o", tmp_path / "bundle", *arguments)
    assert (result.code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "fix: " in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_bundle_is_not_replaced(mwactl_cli, adapter, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = mwactl_cli("export", adapter, "--onnx", "-o", tmp_path, "--force")
    assert (result.code, result.stdout) == (2, "")
    assert "no bundle, so nothing there is replaced" in result.stderr


def test_an_unknown_reference_exits_3(mwactl_cli, tmp_path):
    assert mwactl_cli("export", "nobody@1", "--onnx", "-o", tmp_path / "bundle").code == 3


def test_a_failed_check_exits_5_with_the_figures(mwactl_cli, adapter, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise VerificationError("int8 costs more than is allowed; nothing was written", why="top-10 agreement 87.0 %")

    monkeypatch.setattr(workflow, "export_onnx", fail)
    result = mwactl_cli("export", adapter, "--onnx", "-o", tmp_path / "bundle", "--json")
    assert (result.code, result.stdout) == (5, "")
    assert "top-10 agreement 87.0 %" in result.stderr


def test_what_was_exported_is_shown_with_the_version(mwactl_cli, adapter, tmp_path):
    registry = Registry.default()
    registry.attach(registry.resolve(adapter), "export", {"schema": 1, "dtype": "int8"})
    attachments = mwactl_cli("registry", "show", adapter, "--json").json["attachments"]
    assert {"schema": 1, "dtype": "int8"} in [attached["document"] for attached in attachments]
