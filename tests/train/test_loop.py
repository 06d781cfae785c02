from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mwactl.data.loader import PairBatch
from mwactl.errors import Interrupted, MwactlError, ResourceError
from mwactl.train import TrainingRun, checkpoint
from mwactl.train.schedule import learning_rate


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def log_of(run: TrainingRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log.path.read_text().splitlines()]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def scripted(*rsums: float):
    """A validation whose results are known before."""
    values = iter(rsums)
    return lambda: {"rsum": next(values)}


@pytest.fixture
def killed_at(load_toy):
    """Batches that end in a kill when the one of a step (from 0) is asked for."""

    def make(step: int):
        def load_batches(rows: Iterator[Any]) -> Iterator[PairBatch]:
            for number, batch in enumerate(load_toy(rows)):
                if number == step:
                    raise Killed
                yield batch

        return load_batches

    return make


@pytest.fixture
def signalled_at(load_toy):
    """Batches; with the one of a step (from 0), signals arrive."""

    def make(step: int, *numbers: int):
        def load_batches(rows: Iterator[Any]) -> Iterator[PairBatch]:
            for number, batch in enumerate(load_toy(rows)):
                if number == step:
                    for each in numbers:
                        os.kill(os.getpid(), each)
                yield batch

        return load_batches

    return make


# -- exact resume -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 6))
def test_killed_after_any_step_and_resumed_it_ends_with_the_same_tensors(training, toy, killed_at, step: int):
    whole = training(folder="whole").run()
    with pytest.raises(Killed):
        training(load_batches=killed_at(step), checkpoint_every=1).run()
    torch.manual_seed(999)
    again = training(toy(seed=4), checkpoint_every=1)
    assert again.resume()
    outcome = again.run()
    assert equal(outcome.state, whole.state)
    assert outcome.steps == whole.steps == 6


def test_the_moving_average_and_what_the_loss_learns_go_on_too(training, toy, killed_at):
    options = {"loss": "sigmoid", "ema": 0.8, "checkpoint_every": 1}
    whole = training(folder="whole", validate=scripted(1.0, 2.0), **options).run()
    with pytest.raises(Killed):
        training(load_batches=killed_at(4), validate=scripted(1.0), **options).run()
    again = training(toy(seed=4), validate=scripted(2.0), **options)
    assert again.resume()
    assert again._objective.bias is not None and again._objective.bias.isfinite()
    assert equal(again.run().state, whole.state)
    assert whole.best_epoch == 2  # what was averaged before the kill is part of it
    assert not equal(whole.state, training(folder="plain", **options | {"ema": None}).run().state)


def test_killed_between_checkpoints_it_goes_on_from_the_last_one(training, toy, killed_at):
    whole = training(folder="whole").run()
    with pytest.raises(Killed):
        training(load_batches=killed_at(5), checkpoint_every=2).run()
    again = training(toy(seed=4), checkpoint_every=2)
    assert again.resume()
    assert again._position.step == 4
    assert equal(again.run().state, whole.state)


def test_dropout_and_order_matter_to_this_comparison(training, toy):
    assert not equal(training(folder="a").run().state, training(folder="b", seed=1).run().state)


def test_a_run_does_not_depend_on_random_numbers_drawn_before(training):
    torch.manual_seed(1)
    one = training(folder="a").run()
    torch.manual_seed(2)
    assert equal(one.state, training(folder="b").run().state)


def test_the_best_epoch_of_before_a_kill_is_kept(training, toy, killed_at):
    whole = training(folder="whole", epochs=3, validate=scripted(9.0, 5.0, 6.0)).run()
    with pytest.raises(Killed):
        training(epochs=3, load_batches=killed_at(4), checkpoint_every=1, validate=scripted(9.0)).run()
    again = training(toy(seed=4), epochs=3, checkpoint_every=1, validate=scripted(5.0, 6.0))
    again.resume()
    outcome = again.run()
    assert (outcome.best_epoch, outcome.best_rsum) == (1, 9.0)
    assert equal(outcome.state, whole.state)


def test_without_a_checkpoint_there_is_nothing_to_resume(training):
    assert not training().resume()


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "steps"), [(None, [3, 6, 9]), (2, [2, 3, 4, 6, 8, 9]), (4, [3, 4, 6, 8, 9])])
def test_checkpoints_are_saved_at_epoch_ends_and_as_often_as_asked(training, monkeypatch, every, steps):
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda _, state, **__: saved.append(state.position.step))
    training(epochs=3, checkpoint_every=every).run()
    assert saved == steps


def test_a_validation_that_fails_costs_only_itself(training):
    """Also the last one: the trained tensors are on disk before they are validated, and validated on resuming."""

    def fail() -> dict[str, float]:
        raise RuntimeError("no memory for this")

    with pytest.raises(RuntimeError, match="no memory"):
        training(epochs=1, validate=fail).run()
    calls = []

    def count() -> dict[str, float]:
        calls.append(1)
        os.kill(os.getpid(), signal.SIGINT)  # one signal only asks, here as in a step
        return {"rsum": 7.0}

    again = training(epochs=1, validate=count)
    assert again.resume()
    outcome = again.run()
    assert (len(calls), outcome.best_epoch, outcome.best_rsum) == (1, 1, 7.0)


def test_a_checkpoint_is_not_changed_by_the_steps_after_it(training, monkeypatch):
    best: list[dict[str, Tensor]] = []
    monkeypatch.setattr(checkpoint, "save", lambda _, state, **__: best.append(state.best))
    outcome = training(epochs=3, validate=scripted(9.0, 5.0, 6.0)).run()
    assert best[0] == {}  # the first epoch is saved before it is validated
    assert equal(best[1], outcome.state)


# -- the best epoch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rsums", "epoch"),
    [((1.0, 3.0, 2.0), 2), ((1.0, 2.0, 3.0), 3), ((2.0, 2.0, 2.0), 1)],
    ids=["middle", "last", "tie"],
)
def test_the_epoch_with_the_highest_validation_rsum_is_kept(training, toy, rsums, epoch):
    model, after_epoch = toy(), []
    values = iter(rsums)

    def validate() -> dict[str, float]:
        after_epoch.append({name: tensor.clone() for name, tensor in model.adapter_state().items()})
        return {"rsum": next(values)}

    outcome = training(model, epochs=3, validate=validate).run()
    assert (outcome.best_epoch, outcome.best_rsum) == (epoch, rsums[epoch - 1])
    assert equal(outcome.state, after_epoch[epoch - 1])
    assert not equal(after_epoch[0], after_epoch[2])


def test_the_moving_average_is_what_is_validated_and_kept_and_training_goes_on_without_it(training, toy):
    model, validated = toy(), []

    def validate() -> dict[str, float]:
        validated.append({name: tensor.clone() for name, tensor in model.adapter_state().items()})
        return {"rsum": float(len(validated))}

    outcome = training(model, folder="averaged", ema=0.9, validate=validate).run()
    plain = training(other := toy(), folder="plain").run()
    assert equal(outcome.state, validated[-1])
    assert equal(model.adapter_state(), plain.state)
    assert not equal(outcome.state, plain.state)
    assert equal(training(toy(), folder="last", ema=0.9).run().state, outcome.state)
    assert equal(other.adapter_state(), plain.state)


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (None, 6)])
def test_it_stops_where_the_validation_is_no_better_for_long_enough(training, told, patience, epochs):
    rsums = iter([1.0, 3.0, 2.0, 2.5, 2.0, 1.0])
    outcome = training(
        epochs=6, patience=patience, validate=lambda: {"rsum": next(rsums)}, reporter=told
    ).run()  # fmt: skip
    assert outcome.validation_rsums == (1.0, 3.0, 2.0, 2.5, 2.0, 1.0)[:epochs]
    assert (outcome.best_epoch, outcome.steps) == (2, 3 * epochs)
    assert any("no better validation" in said for said in told.said) == (patience is not None)


def test_a_run_that_had_stopped_and_was_killed_before_it_was_published_stays_stopped(training, toy, tmp_path):
    rsums = [3.0, 2.0]
    values = iter([*rsums, *rsums])
    first = training(epochs=6, patience=1, validate=lambda: {"rsum": next(values)}).run()
    again = training(toy(seed=4), epochs=6, patience=1, validate=lambda: {"rsum": rsums[1]})
    assert again.resume()
    outcome = again.run()
    assert outcome.steps == first.steps == 6
    assert equal(outcome.state, first.state)


def test_without_validation_the_last_epoch_is_kept(training, toy):
    model = toy()
    outcome = training(model).run()
    assert (outcome.best_epoch, outcome.best_rsum) == (None, None)
    assert equal(outcome.state, model.adapter_state())


def test_it_validates_in_evaluation_mode_and_trains_in_training_mode(training, toy, load_toy):
    model, modes = toy(), []

    def load_batches(rows):
        for batch in load_toy(rows):
            modes.append(model.training)
            yield batch

    def validate():
        modes.append(model.training)
        return {"rsum": 1.0}

    training(model.eval(), load_batches=load_batches, validate=validate).run()
    assert modes == [True, True, True, False] * 2


# -- steps ------------------------------------------------------------------------------------------------------------


def test_it_learns(training, toy):
    model = toy()
    model.dropout.p = 0.0
    run = training(model, epochs=60)
    run.run()
    losses = [line["loss"] for line in log_of(run) if line["event"] == "step"]
    assert losses[0] > 1.0
    assert losses[-1] < 0.2


def test_the_learning_rate_follows_the_schedule(training, monkeypatch):
    run, rates = training(epochs=4, warmup=0.25, min_lr=0.01), []
    step = run._optimiser.step
    monkeypatch.setattr(
        run._optimiser, "step", lambda *a, **k: (rates.append(run._optimiser.param_groups[0]["lr"]), step(*a, **k))[1]
    )
    run.run()
    assert rates == [learning_rate(i, total=12, warmup=0.25, peak=0.05, floor=0.01) for i in range(12)]


@pytest.mark.parametrize(("clip", "clipped"), [(1e-3, True), (None, False)])
def test_gradients_are_clipped_to_the_norm_asked_for(training, clip, clipped):
    run = training(clip_norm=clip)
    run.run()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in run._parameters.values()))
    assert (norm <= 1.001e-3) is clipped


def test_a_trained_temperature_stays_below_100(training, toy, load_toy):
    """Where every pair is found already, a hotter softmax is always better."""

    def load_batches(rows):
        for batch in load_toy(rows):
            yield replace(batch, tokens=batch.pixels)

    model = toy(scale=math.log(50), train_scale=True)
    model.dropout.p = 0.0
    model.text.load_state_dict(model.image.state_dict())
    for tower in (model.image, model.text):
        tower.requires_grad_(False)
    training(model, load_batches=load_batches, epochs=10, lr=0.2).run()
    assert model.backbone.logit_scale.item() == pytest.approx(math.log(100))


def test_the_moving_average_of_the_temperature_stays_below_100_too(training, toy):
    model = toy(scale=math.log(50), train_scale=True)
    run = training(model, ema=0.5)
    run._optimiser.register_step_post_hook(lambda *_: model.backbone.logit_scale.data.fill_(9.0))
    assert run.run().state["backbone.logit_scale"] <= math.log(100) + 1e-6


def test_a_temperature_that_is_not_trained_is_left_as_it_is(training, toy):
    model = toy(scale=6.0)  # above log 100, as some published models are
    outcome = training(model).run()
    assert model.backbone.logit_scale.item() == 6.0
    assert "backbone.logit_scale" not in outcome.state


def test_bf16_computes_the_towers_in_bf16_and_keeps_fp32_parameters(training, toy):
    model, types = toy(), set()
    model.image.register_forward_hook(lambda _, __, output: types.add(output.dtype))
    outcome = training(model, precision="bf16").run()
    assert types == {torch.bfloat16}
    assert {tensor.dtype for tensor in outcome.state.values()} == {torch.float32}


@pytest.fixture
def poisoned(load_toy) -> Callable[[Iterator[Any]], Iterator[PairBatch]]:
    """The toy's batches, of which the third holds a NaN."""

    def load_batches(rows: Iterator[Any]) -> Iterator[PairBatch]:
        for number, batch in enumerate(load_toy(rows)):
            if number == 2:
                batch.pixels[0, 0] = float("nan")
            yield batch

    return load_batches


def test_a_loss_that_is_no_number_stops_before_it_does_harm(training, toy, poisoned):
    model = toy()
    model.dropout.p = 0.0
    with pytest.raises(MwactlError, match="the loss became nan at step 3") as caught:
        training(model, load_batches=poisoned, checkpoint_every=1).run()
    assert (caught.value.why, caught.value.fix) == ("the last checkpoint is untouched", "train.lr=0.02")
    assert all(tensor.isfinite().all() for tensor in model.adapter_state().values())
    found = checkpoint.load(training()._folder, identity="toy")
    assert found is not None
    assert found.position.step == 2


@pytest.mark.parametrize(
    ("precision", "fix"), [("fp32", "train.lr=0.02"), ("bf16", "train.lr=0.02, or train.precision=fp32")]
)
def test_a_loss_that_is_no_number_at_once_names_no_checkpoint_and_no_precision_it_has(training, toy, precision, fix):
    model = toy()
    with torch.no_grad():
        model.image.weight.fill_(float("nan"))
    with pytest.raises(MwactlError, match="the loss became nan at step 1") as caught:
        training(model, precision=precision).run()
    assert (caught.value.why, caught.value.fix) == ("no checkpoint was saved before", fix)


def test_too_little_gpu_memory_is_said_with_the_way_out(training, toy):
    model = toy()
    model.memory = 3
    with pytest.raises(ResourceError) as caught:
        training(model).run()
    assert str(caught.value.fix).startswith("train.micro_batch_size=auto")
    assert caught.value.why == "CUDA out of memory. Tried to allocate 2.00 GiB."


def test_too_little_memory_for_the_optimisers_state_is_said_too(training, monkeypatch):
    run = training()

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(run._optimiser, "step", full)
    with pytest.raises(ResourceError, match="GPU's memory is not enough"):
        run.run()


# -- micro batches ----------------------------------------------------------------------------------------------------


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-6) for name in one)


@pytest.mark.parametrize("batch_size", [4, 5])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_without_dropout_micro_batches_learn_what_whole_batches_do(training, toy, size, batch_size):
    """Also where the last batch is a small one (5, 5, 2 of 12 pictures)."""
    models = [toy(train_scale=True), toy(train_scale=True)]
    for model in models:
        model.dropout.p = 0.0
    whole = training(models[0], folder="whole", batch_size=batch_size).run()
    parts = training(models[1], batch_size=batch_size, micro_batch_size=size).run()
    assert close(parts.state, whole.state)
    assert not equal(parts.state, toy().adapter_state())
    assert (whole.micro_batch_size, parts.micro_batch_size) == (None, size)
    assert set(models[1].encoded) <= set(range(1, size + 1))


@pytest.mark.parametrize("size", [4, 100, "auto"])
def test_a_micro_batch_as_large_as_the_batch_is_the_whole_batch_to_the_last_bit(training, size):
    assert equal(training(micro_batch_size=size).run().state, training(folder="whole").run().state)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_in_micro_batches_too_a_resumed_run_ends_with_the_same_tensors(training, toy, killed_at, size, step):
    whole = training(folder="whole", micro_batch_size=size).run()
    with pytest.raises(Killed):
        training(load_batches=killed_at(step), checkpoint_every=1, micro_batch_size=size).run()
    torch.manual_seed(999)
    again = training(toy(seed=4), checkpoint_every=1, micro_batch_size=size)
    assert again.resume()
    assert equal(again.run().state, whole.state)


def test_auto_lowers_the_micro_batch_before_the_first_step_and_says_so(training, toy, told):
    model = toy()
    model.memory = 2
    run = training(model, micro_batch_size="auto", reporter=told)
    outcome = run.run()
    assert outcome.micro_batch_size == 2
    assert equal(outcome.state, training(folder="two", micro_batch_size=2).run().state)
    assert [line for line in log_of(run) if line["event"] == "micro_batch"] == [
        {"event": "micro_batch", "step": 1, "size": 2}
    ]
    assert [said for said in told.said if "micro" in said] == ["micro batch: the memory holds 2 of 4 pairs at once"]


def test_auto_says_that_the_whole_batch_fits(training, told):
    run = training(micro_batch_size="auto", reporter=told)
    run.run()
    assert {"event": "micro_batch", "step": 1, "size": None} in log_of(run)
    assert "micro batch: the memory holds whole batches" in told.said


def test_memory_that_runs_out_in_the_middle_repeats_the_step_and_the_run_goes_on(training, toy, load_toy, killed_at):
    """As if the attempt that failed had never been: also when it is resumed afterwards."""

    def tight(model):
        def load_batches(rows):
            for number, batch in enumerate(load_toy(rows)):
                model.memory = 2 if number == 2 else None
                yield batch

        return load_batches

    model = toy()
    run = training(model, folder="whole", micro_batch_size="auto", load_batches=tight(model))
    whole = run.run()
    assert [line["step"] for line in log_of(run) if line["event"] == "micro_batch"] == [1, 3]
    assert whole.micro_batch_size == 2

    model = toy()
    killed = tight(model)

    def until_four(rows):
        for number, batch in enumerate(killed(rows)):
            if number == 4:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        training(model, micro_batch_size="auto", load_batches=until_four, checkpoint_every=1).run()
    again = training(toy(seed=4), micro_batch_size="auto", checkpoint_every=1)
    assert again.resume()
    outcome = again.run()
    assert outcome.micro_batch_size == 2
    assert equal(outcome.state, whole.state)
    assert not [line for line in log_of(again) if line["event"] == "micro_batch" and line["step"] > 3]


def test_where_no_pair_fits_nothing_is_harmed(training, toy):
    model = toy()
    model.memory = 0
    before = {name: tensor.clone() for name, tensor in model.adapter_state().items()}
    with pytest.raises(ResourceError) as caught:
        training(model, micro_batch_size="auto").run()
    assert str(caught.value.fix).startswith("train.batch_size=2")
    assert equal(model.adapter_state(), before)


def test_the_loss_is_scaled_once_however_many_chunks_there_are(training, toy, load_toy):
    """As fp16 does it; a factor that is a power of two changes no bit of the gradient."""
    gradients = []
    for factor in (1.0, 1024.0):
        run = training(toy(train_scale=True), micro_batch_size=3, folder=str(factor))
        run._scaler = run._gradients._scaler = torch.amp.GradScaler("cpu", init_scale=factor)
        run._gradients.of(next(load_toy(run.plan.batches(first_step=0, epochs=1))), 0)
        run._scaler.unscale_(run._optimiser)
        gradients.append({name: parameter.grad.clone() for name, parameter in run._parameters.items()})
    assert equal(*gradients)


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_that_is_no_number_stops_a_run_in_micro_batches_as_well(training, toy, poisoned, size):
    model = toy()
    model.dropout.p = 0.0
    with pytest.raises(MwactlError, match="the loss became nan at step 3"):
        training(model, load_batches=poisoned, checkpoint_every=1, micro_batch_size=size).run()
    assert all(tensor.isfinite().all() for tensor in model.adapter_state().values())
    found = checkpoint.load(training()._folder, identity="toy")
    assert found is not None
    assert found.position.step == 2


@pytest.mark.parametrize("passing", [1, 2])
def test_stopped_within_a_pass_the_checkpoint_is_that_of_the_last_whole_step(training, toy, passing):
    whole = training(folder="whole", micro_batch_size=2).run()

    class Stopped(type(toy())):
        """Two signals while it encodes: the second one stops at once."""

        def encode_text(self, tokens):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 4 * 2 + 2 * passing:  # step 3; two chunks a pass
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().encode_text(tokens)

    with pytest.raises(Interrupted, match="stopped at once"):
        training(Stopped(), micro_batch_size=2, checkpoint_every=1).run()
    found = checkpoint.load(training()._folder, identity="toy")
    assert found is not None
    assert found.position.step == 2
    again = training(toy(seed=4), micro_batch_size=2, checkpoint_every=1)
    again.resume()
    assert equal(again.run().state, whole.state)


def test_one_interrupt_within_a_pass_finishes_the_step(training, toy):
    class Asked(type(toy())):
        """A signal while the first step's second chunk is encoded."""

        def encode_image(self, pixels):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().encode_image(pixels)

    with pytest.raises(Interrupted, match="interrupted at step 1 of 6"):
        training(Asked(), micro_batch_size=2).run()
    again = training(toy(seed=4), micro_batch_size=2)
    assert again.resume()
    assert equal(again.run().state, training(folder="whole", micro_batch_size=2).run().state)


# -- interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_saves_and_names_the_command(training, toy, signalled_at, number):
    whole = training(folder="whole").run()
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="interrupted at step 2 of 6") as caught:
        training(load_batches=signalled_at(1, number)).run()
    assert caught.value.fix == "mwactl train toy.yaml --resume"
    assert signal.getsignal(number) is before
    again = training(toy(seed=4))
    assert again.resume()
    assert again._position.step == 2
    assert equal(again.run().state, whole.state)


def test_a_second_interrupt_stops_at_once(training, signalled_at):
    run = training(load_batches=signalled_at(1, signal.SIGINT, signal.SIGTERM), checkpoint_every=1)
    with pytest.raises(Interrupted, match="stopped at once"):
        run.run()
    found = checkpoint.load(run._folder, identity="toy")
    assert found is not None
    assert found.position.step == 1


def test_an_interrupt_in_the_last_step_lets_the_run_finish(training, signalled_at):
    whole = training(folder="whole").run()
    assert equal(training(load_batches=signalled_at(5, signal.SIGINT)).run().state, whole.state)


# -- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_tells_the_run_line_by_line(training):
    run = training(epochs=4, validate=scripted(1.0, 2.0, 3.0, 4.0))
    run.run()
    lines = log_of(run)
    events = ["start", "step", "validation", "validation", "validation", "step", "validation", "end"]
    assert [line["event"] for line in lines] == events
    assert lines[0] == {"event": "start", "step": 0, "total_steps": 12, "precision": "fp32", "processes": 1}
    steps = [line for line in lines if line["event"] == "step"]
    assert [(line["step"], line["epoch"]) for line in steps] == [(1, 1), (11, 4)]
    for line in steps:
        assert line["pairs_per_second"] > 0
        assert 0 <= line["data_stall"] <= 1
        assert line["peak_memory_bytes"] > 10_000_000
    assert lines[-1] == {"event": "end", "step": 12, "best_epoch": 4}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_by_the_log_too(training, monkeypatch):
    run = training()
    run.log.path.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="disk is full"):
        run.run()
