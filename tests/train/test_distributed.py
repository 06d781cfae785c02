from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mwactl.config.recipe import TrainConfig
from mwactl.errors import IncompatibleError, Interrupted, ResourceError, UsageError
from mwactl.train import checkpoint
from mwactl.train.distributed import ALONE, PeerLostError, Processes, joined, uses_gpus
from mwactl.train.gradients import BatchGradients
from mwactl.train.micro_batch import MicroBatch
from mwactl.train.objective import Objective
from mwactl.train.share import load_share

#: 7 pictures with 1, 2, 3, 1, 2, 1, 2 captions, and 5 that are not shown.
UNEVEN = np.array([(picture, 2 * picture % 12) for picture in range(7)] + [(1, 3), (2, 5), (2, 7), (4, 9), (6, 11)])


@pytest.fixture
def exact(toy) -> Callable[..., Any]:
    """A toy without dropout, whose temperature is trained."""

    def make(**options: Any) -> Any:
        model = toy(train_scale=True, **options)
        model.dropout.p = 0.0
        return model

    return make


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two states, relative to the largest value of each tensor."""
    assert one.keys() == other.keys()
    return max(((one[name] - other[name]).abs().max() / other[name].abs().max()).item() for name in one)


CASES = {
    "whole shares": {},
    "in parts": {"micro_batch_size": 1},
    "an odd last batch": {"batch_size": 5},
    "with an empty share": {"batch_size": 10, "count": 3},
    "several captions": {"pairs": UNEVEN, "batch_size": 9},
    "several captions, an odd last batch, in parts": {"pairs": UNEVEN, "batch_size": 6, "micro_batch_size": 2},
    "clipped": {"clip_norm": 0.01},
    "the sigmoid loss, whose bias must count once": {"loss": "sigmoid", "clip_norm": 0.5, "ema": 0.9},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_several_processes_train_what_one_does(training, together, exact, options: dict[str, Any]):
    options = dict(options)
    count = options.pop("count", 2)
    validate = lambda: {"rsum": 1.0}  # noqa: E731
    alone = training(exact(), folder="alone", validate=validate, **options).run()

    def work(processes: Processes) -> Any:
        return training(exact(), processes=processes, validate=validate, **options).run()

    outcomes = together(count, work)
    for outcome in outcomes:
        assert far(outcome.state, alone.state) < 1e-5
        assert outcome.validation_rsums == (1.0, 1.0)
    assert far(outcomes[0].state, outcomes[1].state) == 0.0
    assert far(alone.state, {name: tensor.detach() for name, tensor in exact().trainable().items()}) > 1e-3


def gradients_of(model: Any, processes: Processes, micro_batch: Any = None) -> BatchGradients:
    return BatchGradients(
        model.train(), Objective(TrainConfig(), model.backbone), device=torch.device("cpu"), precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False), micro_batch=MicroBatch(micro_batch, 7, processes.count),
        seed=0, processes=processes,
    )  # fmt: skip


def gradients(
    model: Any, load_toy, processes: Processes, micro_batch: Any = None
) -> tuple[dict[str, Tensor], int, Any]:
    """The loss and the gradients of a batch of 7 pairs; how many pairs it had; the micro batch that it came to."""
    of = gradients_of(model, processes, micro_batch)
    [share] = load_share(processes, load_toy, iter([[(0, number, number) for number in range(7)]]))
    found = {"loss": of.of(share, step=0)} | {name: parameter.grad for name, parameter in model.trainable().items()}
    return found, of.pairs, of._micro_batch.size


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_sum_of_their_gradients_is_that_of_the_whole_batch(together, exact, load_toy, micro_batch):
    """An optimiser like AdamW would not see one that is twice as large."""
    expected, _, _ = gradients(exact(), load_toy, ALONE)
    assert expected["backbone.logit_scale"].abs() > 1e-3
    for found, pairs, _ in together(3, lambda processes: gradients(exact(), load_toy, processes, micro_batch)):
        assert far(found, expected) < 1e-5
        assert pairs == 7


def test_a_parameter_that_no_process_has_a_gradient_of_has_none_afterwards(together, exact, load_toy):
    def work(processes: Processes) -> Any:
        model = exact()
        model.unused = torch.nn.Parameter(torch.ones(3))
        return gradients(model, load_toy, processes)[0]["unused"]

    assert together(2, work) == [None, None]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_a_run_goes_on_with_another_number_of_processes(training, together, exact, monkeypatch, before, after):
    whole = training(exact(), folder="whole").run()
    save = checkpoint.save

    def save_and_fail(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        raise OSError("stopped")

    def begin(processes: Processes) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save", save_and_fail)
            training(exact(), processes=processes, checkpoint_every=2).run()

    def go_on(processes: Processes) -> Any:
        run = training(exact(), processes=processes, checkpoint_every=2)
        assert run.resume()
        assert run._position.step == 2
        return run.run()

    if before == 1:
        with pytest.raises(OSError, match="stopped"):
            begin(ALONE)
    else:
        first, other = together(before, begin)
        assert str(first) == "stopped"
        assert isinstance(other, PeerLostError)
    outcomes = [go_on(ALONE)] if after == 1 else together(after, go_on)
    for outcome in outcomes:
        assert far(outcome.state, whole.state) < 1e-5


def test_each_process_draws_for_itself_and_a_resumed_run_draws_the_same(training, together, toy):
    def work(folder: str, stop_at: int | None) -> Callable[[Processes], Any]:
        def run(processes: Processes) -> Any:
            made = training(toy(), processes=processes, folder=folder, checkpoint_every=1)
            made.resume()
            of = made._gradients.of

            def of_until(batch: Any, step: int) -> Tensor:
                if step == stop_at:
                    raise ValueError("stopped")
                return of(batch, step)

            made._gradients.of = of_until
            return made.run().state

        return run

    whole, _ = together(2, work("whole", None))
    assert {str(error) for error in together(2, work("parts", 4))} == {"stopped"}
    resumed, _ = together(2, work("parts", None))
    assert far(whole, resumed) == 0.0


def test_two_processes_with_the_same_rows_draw_differently(together, toy, load_toy):
    def work(processes: Processes) -> Tensor:
        model = toy()
        drawn: list[Tensor] = []
        model.image.register_forward_hook(lambda _, inputs, rows: drawn.append(rows.detach()))
        [batch] = load_toy(iter([[(0, number, number) for number in range(4)]]))
        gradients_of(model, processes).of(batch, 0)
        return drawn[0]

    one, other = together(2, work)
    assert not torch.equal(one, other)


# -- memory that runs out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [1, 2, 3, 6], ids=["pictures", "captions", "first pass", "second pass"])
def test_auto_lowers_the_micro_batch_of_all_when_one_runs_out_of_memory(together, exact, load_toy, call: int):
    """Calls of the second process: the whole share's towers; then of its two chunks, before or after the exchange."""

    def work(processes: Processes) -> Any:
        model = exact()
        if processes.rank == 1:
            fail_at(model, {call} if call < 3 else {1, call})
        return gradients(model, load_toy, processes, "auto")

    expected, _, _ = gradients(exact(), load_toy, ALONE)
    for found, _, size in together(2, work):
        assert far(found, expected) < 1e-5
        assert size == (2 if call < 3 else 1)


def fail_at(model: Any, calls: set[int]) -> None:
    """Run out of memory in these calls of the towers, counted from 1."""
    within, count = model._within_memory, 0

    def failing(rows: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count in calls:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        rows: Tensor = within(rows)
        return rows

    model._within_memory = failing


def test_memory_that_runs_out_in_the_backward_pass_is_an_error_of_all(together, exact, load_toy):
    def work(processes: Processes) -> Any:
        model = exact()
        if processes.rank == 0:

            def fail(_: Tensor) -> None:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

            model.text.weight.register_hook(fail)
        return gradients(model, load_toy, processes)

    errors = together(2, work)
    assert all(isinstance(error, ResourceError) for error in errors)
    assert [error.why for error in errors] == ["CUDA out of memory.", "another process ran out of memory"]


# -- who does what ---------------------------------------------------------------------------------------------------


def test_only_the_first_process_validates_logs_and_saves(training, together, exact, tmp_path, told):
    def validate() -> dict[str, float]:
        with (tmp_path / "validated").open("a") as file:
            file.write(f"{os.environ['RANK']} ")
        return {"rsum": 2.0}

    def work(processes: Processes) -> Any:
        run = training(exact(), processes=processes, folder=f"of-{processes.rank}", validate=validate, reporter=told)
        run.run()
        return told.said

    first, other = together(2, work)
    assert len(first) == 2
    assert other == []
    assert (tmp_path / "validated").read_text() == "0 0 "
    assert sorted(path.name for path in (tmp_path / "of-0").iterdir()) == ["checkpoint.safetensors", "log.jsonl"]
    assert not (tmp_path / "of-1").exists()
    start, *_ = (tmp_path / "of-0" / "log.jsonl").read_text().splitlines()
    assert json.loads(start)["processes"] == 2


def test_a_share_is_contiguous_and_all_shares_are_the_batch():
    for rows in (range(0), range(1), range(7), range(8)):
        shares = [Processes(rank, 3, rank, 3).share(rows) for rank in range(3)]
        assert [row for share in shares for row in share] == list(rows)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert ALONE.share([1, 2]) == [1, 2]


def test_one_process_of_a_machine_goes_first(together, tmp_path):
    def work(processes: Processes) -> bool:
        with processes.first_of_each_machine():
            found = (tmp_path / "made").exists()
            (tmp_path / "made").touch()
        return found

    assert together(3, work) == [False, True, True]


def test_a_process_that_would_train_another_run_is_refused(together):
    def work(processes: Processes) -> None:
        processes.same_run("a" if processes.rank < 2 else "b")

    first, second, third = together(3, work)
    assert (first, second) == (None, None)
    assert isinstance(third, IncompatibleError)
    assert "process 2 would train another run than process 0" in str(third)


# -- endings ---------------------------------------------------------------------------------------------------------


def test_when_one_is_asked_to_stop_all_stop_after_the_same_step_and_one_saves(training, together, exact, tmp_path):
    def work(processes: Processes) -> Any:
        run = training(exact(), processes=processes)
        of = run._gradients.of

        def of_and_signal(batch: Any, step: int) -> Tensor:
            if step == 1 and processes.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return of(batch, step)

        run._gradients.of = of_and_signal
        run.run()

    for error in together(2, work):
        assert isinstance(error, Interrupted)
        assert error.message == "interrupted at step 2 of 6; the checkpoint is saved"
    assert checkpoint.load(tmp_path / "run", identity="toy").position.step == 2


def test_a_process_that_is_killed_ends_the_others_and_leaves_a_checkpoint(training, together, exact, tmp_path):
    def work(processes: Processes) -> Any:
        run = training(exact(), processes=processes, checkpoint_every=2)
        of = run._gradients.of

        def of_and_die(batch: Any, step: int) -> Tensor:
            if step == 3 and processes.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return of(batch, step)

        run._gradients.of = of_and_die
        run.run()

    first, second = together(2, work)
    assert second is None
    assert isinstance(first, PeerLostError)
    assert checkpoint.load(tmp_path / "run", identity="toy").position.step == 3


def test_a_loss_that_is_no_number_is_the_same_error_in_all(training, together, exact):
    def work(processes: Processes) -> Any:
        model = exact()
        with torch.no_grad():
            model.image.weight.fill_(float("nan"))
        training(model, processes=processes).run()

    assert all("the loss became nan at step 1" in str(error) for error in together(2, work))


def test_an_environment_that_torchrun_did_not_make_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="WORLD_SIZE=2 but no LOCAL_RANK"), joined("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(UsageError, match="WORLD_SIZE=x, or a rank, that is no number"), joined("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu") as processes:
        assert processes.alone


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert uses_gpus("auto", 2)
    assert not uses_gpus("cpu", 9)
    for device in ("auto", "cuda"):
        with pytest.raises(UsageError, match="3 processes need as many GPUs; there are 2; fix: --nproc 2"):
            uses_gpus(device, 3)
    with pytest.raises(UsageError, match=r"train\.device=cuda:1 is one GPU, for 2 processes"):
        uses_gpus("cuda:1", 2)


# -- a whole recipe --------------------------------------------------------------------------------------------------


@pytest.fixture
def train_recipe(tiny_recipe, monkeypatch) -> Callable[..., Any]:
    """Train the tiny recipe, without dropout, as one of some processes."""
    from mwactl.config import load_recipe
    from mwactl.registry import Registry
    from mwactl.workflow import train

    def run(processes: Processes, *options: str, **how: Any) -> Any:
        monkeypatch.setattr(train, "joined", lambda _: nullcontext(processes))
        loaded = load_recipe(str(tiny_recipe), ["method.mwa.dropout=0", *options])
        return train.train_recipe(Registry.default(), loaded, **how)

    return run


def test_two_processes_publish_once_what_one_process_publishes(together, train_recipe):
    from mwactl.registry import Registry
    from mwactl.workflow.load import adapter_tensors

    # A lower rate than the recipe's: AdamW divides by small gradients, and a micro batch alone shows as much at 0.01.
    options = ["train.batch_size=10", "data.captions_per_image=2", "data.captions=all", "train.lr=0.001"]
    two = ["name=two", "train.micro_batch_size=2", *options]
    first, other = together(2, lambda processes: train_recipe(processes, *two))
    assert first.entry == other.entry
    assert sorted(entry.reference for entry in Registry.default().entries()) == ["two@1", "two@2"]
    alone = train_recipe(ALONE, "name=one", *options)
    one, two = (adapter_tensors(Registry.default(), trained.entry) for trained in (alone, first))
    assert far(two, one) < 1e-5
    assert first.outcome.validation_rsums == alone.outcome.validation_rsums


def test_the_number_of_processes_is_no_part_of_a_runs_identity(together, train_recipe):
    def stopped(processes: Processes) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save", save_and_stop(checkpoint.save))
            train_recipe(processes)

    def save_and_stop(save: Callable[..., None]) -> Callable[..., None]:
        def stop(*arguments: Any, **options: Any) -> None:
            save(*arguments, **options)
            raise Interrupted("stopped")

        return stop

    first, other = together(2, stopped)
    assert isinstance(first, Interrupted)
    assert isinstance(other, PeerLostError)
    with pytest.raises(UsageError, match="this recipe has an unfinished run"):
        train_recipe(ALONE)
    assert train_recipe(ALONE, resume=True).outcome.steps == 6
