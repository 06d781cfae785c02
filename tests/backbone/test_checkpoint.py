"""Weights files of every kind become the same fp32 tensors, mapped from a file; nothing else is ever run."""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import subprocess
import sys
import traceback
from collections import OrderedDict
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mwactl.backbone import checkpoint
from mwactl.backbone.checkpoint import LeftOut, read_checkpoint, read_torch_file
from mwactl.backbone.digests import record_path
from mwactl.errors import ExitCode, NotFoundError, ResourceError, VerificationError
from mwactl.files import sha256_file
from mwactl.home import cache_path


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    return {
        "embed.weight": table,
        "first.rows": table[:2],
        "turned": table.T,
        "head.weight": nn.Parameter(torch.randn(4, 3)),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(3, dtype=torch.float64),
        "logit_scale": torch.tensor(2.5),
        "nothing": torch.zeros(0, 4),
        "position_ids": torch.arange(7)[None],
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(3, dtype=torch.uint8),
    }


def save(path: Path, document: Any, **options: Any) -> Path:
    torch.save(document, path, **options)
    return path


def converted() -> Path:
    (path,) = (cache_path() / "weights").glob("*.safetensors")
    return path


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        wanted = tensor.detach().float() if tensor.is_floating_point() else tensor
        assert state[name].dtype == wanted.dtype, name
        assert state[name].is_contiguous(), name
        assert torch.equal(state[name], wanted), name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", ["model", "module", "state_dict", None])
def test_a_torch_file_gives_every_tensor_in_fp32_or_as_it_is(
    tmp_path: Path, container: str | None, zipped: bool
) -> None:
    document: Any = OrderedDict(tensors())
    path = save(
        tmp_path / "weights.pth",
        document if container is None else {"epoch": 3, container: document},
        _use_new_zipfile_serialization=zipped,
    )
    for _ in range(2):  # converted, and from the cache
        read = read_checkpoint(path)
        assert_same(read.state, tensors())
        assert read.sha256 == sha256_file(path)


def test_a_training_checkpoint_is_read_with_its_options_and_its_optimiser(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    document = {
        "model": layer.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 9, "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=5e-5, betas=[0.9, 0.98], task="retrieval", resume=None),
    }  # fmt: skip
    assert_same(read_checkpoint(save(tmp_path / "w.pth", document)).state, dict(layer.state_dict()))


def test_the_first_container_that_is_there_holds_the_weights(tmp_path: Path) -> None:
    old, new = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    path = save(tmp_path / "w.pth", {"model": old, "state_dict": new})
    assert_same(read_checkpoint(path).state, old)
    assert_same(read_checkpoint(path, containers=("state_dict", "module", "model")).state, new)
    assert_same(read_checkpoint(path).state, old)


def test_a_prefix_is_taken_off_where_all_names_carry_it(tmp_path: Path) -> None:
    torch_file = save(tmp_path / "w.pth", {"model": {"module.a": torch.ones(1), "module.b.module.c": torch.ones(2)}})
    mapped = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"module.a": torch.ones(1), "module.b.module.c": torch.ones(2)}, mapped)
    for path in (torch_file, mapped):
        assert read_checkpoint(path).state.keys() == {"a", "b.module.c"}
        assert read_checkpoint(path, strip=("other.", "module.", "a")).state.keys() == {"a", "b.module.c"}
        assert read_checkpoint(path, strip=()).state.keys() == {"module.a", "module.b.module.c"}
    mixed = save(tmp_path / "mixed.pth", {"model": {"module.a": torch.ones(1), "b": torch.ones(2)}})
    assert read_checkpoint(mixed).state.keys() == {"module.a", "b"}


def test_safetensors_are_mapped_from_the_file_itself_and_converted_where_they_are_not_fp32(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = {"a": torch.randn(3, 4), "h": torch.randn(3).half(), "ids": torch.arange(3)}
    safetensors.torch.save_file(state, path)
    read = read_checkpoint(path)
    assert_same(read.state, state)
    assert read.sha256 == sha256_file(path)
    assert not (cache_path() / "weights").exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list what is mapped")
@pytest.mark.parametrize("kind", ["torch file, first reading", "torch file, from the cache", "safetensors"])
def test_tensors_lie_in_a_mapped_file_and_writing_to_them_leaves_it_alone(tmp_path: Path, kind: str) -> None:
    state = {"big": torch.randn(512, 1024)}
    if kind == "safetensors":
        path = source = tmp_path / "w.safetensors"
        safetensors.torch.save_file(state, path)
    else:
        path = save(tmp_path / "w.pth", {"model": state})
        if "cache" in kind:
            read_checkpoint(path)
    tensor = read_checkpoint(path).state["big"]
    source = path if kind == "safetensors" else converted()
    assert mapped_file(tensor.data_ptr()) == str(source)
    assert mapped_file(tensor.data_ptr() + tensor.nbytes - 1) == str(source)
    before = source.read_bytes()
    tensor.zero_()
    assert source.read_bytes() == before


def mapped_file(address: int) -> str | None:
    """The file that an address of this process is mapped from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else None
    return None


@pytest.mark.parametrize("rank", range(2))
def test_the_conversion_is_one_that_the_safetensors_library_reads_alike_and_equal_every_time(
    tmp_path: Path, rank: int
) -> None:
    order = list(tensors().items())[:: 1 if rank == 0 else -1]
    read_checkpoint(save(tmp_path / "w.pth", {"model": dict(order)}))
    first = converted().read_bytes()
    with safetensors.safe_open(converted(), framework="pt") as file:
        assert file.metadata() is None
        assert_same({name: file.get_tensor(name) for name in file.keys()}, tensors())  # noqa: SIM118
    converted().unlink()
    read_checkpoint(tmp_path / "w.pth")
    assert converted().read_bytes() == first
    read_checkpoint(save(tmp_path / "again.pth", {"epoch": rank, "model": tensors()}))
    assert {path.read_bytes() for path in (cache_path() / "weights").glob("*.safetensors")} == {first}


def test_a_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "w.pth", {"model": tensors()})
    read_checkpoint(path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the torch file was read again"))
    assert_same(read_checkpoint(path).state, tensors())
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert_same(read_checkpoint(copy).state, tensors())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [truncate, change_a_byte, Path.unlink, lambda path: record_path(path).unlink(),
     lambda path: record_path(path).write_text("no digest")],
    ids=["truncated", "changed", "gone", "no record", "damaged record"],
)  # fmt: skip
def test_a_damaged_conversion_is_made_again(tmp_path: Path, damage: Any) -> None:
    path = save(tmp_path / "w.pth", {"model": tensors()})
    read_checkpoint(path)
    name, whole = converted(), converted().read_bytes()
    damage(name)
    assert_same(read_checkpoint(path).state, tensors())
    assert converted().read_bytes() == whole


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_wants_to_run_code_is_refused_by_name_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    witness = tmp_path / "it-ran"
    document = {"model": {"a": torch.ones(1)}, "args": Bomb(witness)}
    path = save(tmp_path / "w.pth", document, _use_new_zipfile_serialization=zipped)
    with pytest.raises(VerificationError, match="nothing of it was run") as raised:
        read_checkpoint(path)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == str(path)
    assert "posix.system" in (raised.value.why or "")
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists(), "the bomb of this test is a dud"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_paths_and_numbers_of_numpy_among_the_options_of_a_run_are_let_in_and_left_out(
    tmp_path: Path, zipped: bool
) -> None:
    options = argparse.Namespace(
        lr=5e-5, out=Path("x"), other=PureWindowsPath("c:/x"), seed=np.int64(3), alpha=np.float32(0.1),
        dtype=np.dtype("float16"), mean=np.ones(3), names=np.array(["a", "b"]), since=np.datetime64("2020-01-01"),
    )  # fmt: skip
    path = save(
        tmp_path / "w.pth",
        {"model": {"a": torch.ones(1)}, "args": options},
        _use_new_zipfile_serialization=zipped,
    )
    before = set(torch.serialization.get_safe_globals())
    found = vars(read_torch_file(path)["args"])
    assert found.pop("lr") == 5e-5
    assert {type(value) for value in found.values()} == {LeftOut}
    assert_same(read_checkpoint(path).state, {"a": torch.ones(1)})
    assert set(torch.serialization.get_safe_globals()) == before


class Call:
    """Calls any function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def test_what_is_let_in_is_no_way_to_anything_else(tmp_path: Path) -> None:
    witness = tmp_path / "written"
    for harmful in (
        Call(Path.write_text, witness, "owned"),
        Call(np.save, str(witness), 1),
        Call(eval, f"open({str(witness)!r}, 'w')"),
        Call(argparse.FileType("w"), str(witness)),
    ):
        path = save(tmp_path / "w.pth", {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(out=harmful)})
        with pytest.raises(VerificationError, match="nothing of it was run"):
            read_checkpoint(path)
        assert not witness.exists()


def test_a_value_that_is_left_out_is_no_weight(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", {"model": {"a": np.ones(3)}})
    with pytest.raises(VerificationError, match="no weights in this file") as raised:
        read_checkpoint(path)
    assert "no plain tensor: a (LeftOut)" in (raised.value.why or "")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_why_a_file_cannot_be_read_is_said_in_our_words_and_without_warnings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = {kind: save(tmp_path / kind, {"a": torch.randn(200)}, _use_new_zipfile_serialization=kind == "zip")
             for kind in ("zip", "pickle")}  # fmt: skip
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program")
    contents = {
        b"": "it is empty",
        b"version https://git-lfs.github.com/spec/v1": "it is neither a zip archive nor a pickle",
        whole["zip"].read_bytes()[:-9]: "it is a zip archive that is cut off or damaged",
        whole["pickle"].read_bytes()[:-9]: "it is a pickle that is cut off or damaged",
        pickle.dumps({"model": {"a": [1.0]}}): "it is a pickle, but not one of weights",
        (tmp_path / "program").read_bytes(): "it is a zip archive, but not one of weights",
    }
    for content, why in contents.items():
        path = tmp_path / "w.pth"
        path.write_bytes(content)
        with pytest.raises(VerificationError) as raised:
            read_checkpoint(path)
        assert raised.value.why == why
        told = "".join(traceback.format_exception(raised.value))
        assert "weights_only" not in told
    assert capfd.readouterr().err == ""


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "w.pth", tmp_path / "w.safetensors", tmp_path):
        with pytest.raises(NotFoundError) as raised:
            read_checkpoint(path)
        assert raised.value.where == str(path)


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x80\x02", b"PK\x03\x04" + b"\0" * 50])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="not a complete") as raised:
        read_checkpoint(path)
    assert raised.value.where == str(path)
    assert not (cache_path() / "weights").exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        safetensors.torch.save_file({"a": torch.randn(200)}, path)
    else:
        save(path, {"model": {"a": torch.randn(200)}}, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(VerificationError, match="not a complete"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "there is no model, module, state_dict in it, and the file is empty"),
        ([torch.ones(1)], "there is no model, module, state_dict in it, and the file is a list"),
        (torch.ones(1), "the file is a Tensor"),
        ({"model": {}}, "`model` is empty"),
        ({"model": None}, "`model` is a NoneType"),
        ({"model": "beit3_base", "state_dict": {"a": torch.ones(1)}}, "`model` is a str"),
        ({"model": {"a": torch.ones(1), "epoch": 3}}, "`model` holds what is no plain tensor: epoch (int)"),
        ({"weights": {"a": torch.ones(1)}, "epoch": 3}, "holds what is no plain tensor: weights (dict), epoch (int)"),
        ({str(i): i for i in range(5)}, "0 (int), 1 (int), 2 (int) and 2 more"),
        ({"model": {7: torch.ones(1)}}, "7 (under a name that is no text)"),
        pytest.param(
            {"model": {"s": torch.eye(3).to_sparse()}}, "s (sparse_coo float32 on cpu)",
            marks=pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants"),
        ),
        ({"model": {"c": torch.ones(2, dtype=torch.complex64)}}, "c (strided complex64 on cpu)"),
        ({"model": {"m": torch.ones(2, device="meta")}}, "m (strided float32 on meta)"),
    ],
)  # fmt: skip
def test_a_file_without_weights_says_what_it_holds(tmp_path: Path, document: Any, reason: str) -> None:
    path = save(tmp_path / "w.pth", document)
    with pytest.raises(VerificationError, match="no weights in this file") as raised:
        read_checkpoint(path)
    assert reason in (raised.value.why or "")
    assert "model, module, state_dict" in (raised.value.fix or "")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "w.pth", {"model": tensors()})
    write = checkpoint._write_safetensors

    def full(file: Any, state: Any) -> None:
        write(file, state)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_safetensors", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        read_checkpoint(path)
    assert list((cache_path() / "weights").iterdir()) == []
    monkeypatch.undo()


def test_two_processes_that_convert_at_once_both_end_well(tmp_path: Path, empty_home: Path) -> None:
    path = save(tmp_path / "w.pth", {"model": {f"w{i}": torch.full((256, 256), float(i)) for i in range(40)}})
    program = (
        "import sys; from pathlib import Path; from mwactl.backbone.checkpoint import read_checkpoint\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "state = read_checkpoint(Path(sys.argv[1])).state\n"
        "assert all((state[f'w{i}'] == i).all() for i in range(40))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         text=True, env=environment)
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120) and process.returncode for process in both] == [0, 0]
    names = {file.name for file in (cache_path() / "weights").iterdir()}
    assert names == {converted().name, record_path(converted()).name}
