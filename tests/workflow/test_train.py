from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import mwactl
from mwactl.adapter.serialise import from_bytes
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config import load_recipe
from mwactl.errors import DataError, MwactlError, NotFoundError, UsageError
from mwactl.files import sha256_file
from mwactl.home import runs_path
from mwactl.registry import Entry, Registry
from mwactl.train import checkpoint, objective
from mwactl.workflow import pictures
from mwactl.workflow import train as training
from mwactl.workflow.train import plan_training


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch):
    """Die right after the checkpoint of a step."""

    def arm(step: int) -> None:
        save = checkpoint.save

        def save_and_die(folder: Path, state: Any, *, identity: str) -> None:
            save(folder, state, identity=identity)
            if state.position.step == step:
                monkeypatch.setattr(checkpoint, "save", save)
                raise Killed

        monkeypatch.setattr(checkpoint, "save", save_and_die)

    return arm


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that trainings make, in order."""
    made: list[Any] = []
    inject = training.inject
    monkeypatch.setattr(training, "inject", lambda *a, **k: (made.append(inject(*a, **k)), made[-1])[1])
    return made


def tensors(registry: Registry, entry: Entry) -> dict[str, Tensor]:
    return from_bytes(registry.read(entry, "adapter.safetensors"), where="")[0]


# -- what is published ------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_was_trained_on_what_with_what(train, registry: Registry, tiny_recipe, tiny_clip):
    trained = train()
    entry = registry.resolve("tiny-mwa@2")
    assert entry == trained.entry
    manifest = entry.manifest
    assert manifest["kind"] == "adapter"
    assert manifest["method"]["name"] == "mwa"
    assert manifest["base"]["backbone"] == f"clip:local-dir:{tiny_clip.name}"
    assert manifest["base"]["weights"]["file_sha256"] == sha256_file(tiny_clip / "open_clip_model.safetensors")
    assert manifest["base"]["fingerprint"].startswith("sha256:")
    loaded = load_recipe(str(tiny_recipe))
    train_facts = manifest["train"]
    assert train_facts["recipe"] == loaded.as_dict()
    assert train_facts["recipe_digest"] == loaded.digest
    assert (train_facts["seed"], train_facts["steps"]) == (0, 6)
    assert train_facts["versions"]["mwactl"] == mwactl.__version__
    assert train_facts["versions"]["torch"] == torch.__version__
    sizes = [(used["name"], used["split"], used["images"], used["captions"]) for used in manifest["data"]]
    assert sizes == [("tiny", "train", 24, 48), ("tiny", "val", 8, 16)]
    assert len({used["digest"] for used in manifest["data"]}) == 2
    assert manifest["metrics"] == [{"dataset": "tiny", "split": "val", "rsum": trained.outcome.best_rsum}]
    files = [file["path"] for file in manifest["files"]]
    assert sorted(files) == ["adapter.safetensors", "recipe.yaml", "training-pictures.sha256"]


def test_the_published_recipe_loads_to_the_recipe_that_was_used(train, registry: Registry, tmp_path: Path):
    entry = train("train.epochs=1", "train.seed=3").entry
    (tmp_path / "again.yaml").write_bytes(registry.read(entry, "recipe.yaml"))
    assert load_recipe(str(tmp_path / "again.yaml")).digest == entry.manifest["train"]["recipe_digest"]


def test_every_picture_that_was_used_is_remembered(train, registry: Registry, tiny_pictures: Path):
    entry = train("train.epochs=1").entry
    data = registry.read(entry, "training-pictures.sha256")
    for split, seen in (("train", 24), ("val", 8), ("test", 0)):
        digests = [sha256_file(path) for path in (tiny_pictures / "images").glob(f"{split}-*.png")]
        assert pictures.seen(data, digests, where="") == seen


def test_the_parent_of_a_trained_adapter_is_the_untrained_one(train, registry: Registry):
    trained = train("train.epochs=1").entry
    untrained = registry.resolve("tiny-mwa@1")
    assert trained.manifest["parents"] == [untrained.digest]
    assert untrained.manifest["train"] is None
    before, after = tensors(registry, untrained), tensors(registry, trained)
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("up.weight"))


@pytest.mark.parametrize("method", ["head", "full"])
def test_baselines_have_no_untrained_parent(train, registry: Registry, method: str):
    entry = train(f"method.name={method}", "train.epochs=1").entry
    assert (entry.version, entry.manifest["parents"]) == (1, [])


def test_how_long_it_took_is_attached_and_changes_no_digest(train, registry: Registry):
    first = train("train.epochs=1")
    [attached] = registry.attachments(first.entry, "training")
    assert attached["document"]["seconds"] == first.outcome.seconds
    assert attached["document"]["steps"] == 3
    assert [point["epoch"] for point in attached["document"]["validation"]] == [1]
    assert attached["document"]["validation"][0]["rsum"] == first.outcome.best_rsum
    assert train("train.epochs=1").entry.digest == first.entry.digest


def test_training_the_same_again_gives_the_same_version(train, registry: Registry):
    one = train().entry
    torch.manual_seed(123)
    assert train().entry == one
    assert train("train.seed=1").entry.manifest["tensors"]["digest"] != one.manifest["tensors"]["digest"]


# -- what is trained --------------------------------------------------------------------------------------------------


def test_mwa_leaves_every_tensor_of_the_backbone_as_it_was(train, models):
    entry = train().entry
    assert fingerprint(models[0].backbone) == entry.manifest["base"]["fingerprint"]


def test_head_changes_the_projections_and_the_temperature_alone(train, models, tiny_clip):
    import safetensors.torch

    before = safetensors.torch.load_file(tiny_clip / "open_clip_model.safetensors")
    train("method.name=head", "train.epochs=1")
    after = models[0].backbone.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"visual.proj", "text_projection", "logit_scale"}


def test_full_changes_every_layer(train, models, tiny_clip):
    import safetensors.torch

    before = safetensors.torch.load_file(tiny_clip / "open_clip_model.safetensors")
    train("method.name=full", "train.epochs=1")
    after = models[0].backbone.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same <= {"visual.ln_pre.bias", "attn_mask"}


# -- which epoch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rsums", "best"), [((10.0, 30.0, 20.0), 2), ((30.0, 20.0, 10.0), 1)])
def test_the_epoch_with_the_best_validation_is_published(train, registry, models, monkeypatch, rsums, best):
    after_epoch: list[dict[str, Tensor]] = []

    def scripted(model: Any, split: Any, *_: Any) -> SimpleNamespace:
        assert split.dataset.split == "val"
        after_epoch.append({name: tensor.clone() for name, tensor in model.adapter_state().items()})
        nothing = {"R@1": 0.0}
        return SimpleNamespace(rsum=rsums[len(after_epoch) - 1], image_to_text=nothing, text_to_image=nothing)

    monkeypatch.setattr(training, "evaluate_model", scripted)
    entry = train("train.epochs=3").entry
    assert entry.manifest["train"]["best_epoch"] == best
    published = tensors(registry, entry)
    assert all(torch.equal(published[name], after_epoch[best - 1][name]) for name in published)
    assert not all(torch.equal(published[name], after_epoch[2][name]) for name in published)


def test_without_a_validation_split_the_last_epoch_is_published(train, registry, models):
    entry = train("data.val_split=null").entry
    assert entry.manifest["metrics"] == []
    assert entry.manifest["train"]["best_epoch"] is None
    assert [used["split"] for used in entry.manifest["data"]] == ["train"]
    published, last = tensors(registry, entry), models[0].adapter_state()
    assert all(torch.equal(published[name], last[name]) for name in published)


# -- unfinished runs --------------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_neither_overwritten_nor_silently_continued(train, kill_after):
    kill_after(3)
    with pytest.raises(Killed):
        train()
    with pytest.raises(UsageError, match="unfinished run") as caught:
        train()
    assert str(caught.value.fix).startswith("mwactl train tiny.yaml --resume")
    assert "--restart" in str(caught.value.fix)


def test_restart_begins_again(train, kill_after, listener):
    kill_after(3)
    with pytest.raises(Killed):
        train()
    trained = train(restart=True, reporter=listener)
    assert not any("resumed" in said for said in listener.said)
    assert sum("epoch 1/2" in said for said in listener.said) == 1
    assert trained.outcome.steps == 6


def test_resume_goes_on_and_says_from_where(train, kill_after, listener):
    kill_after(4)
    with pytest.raises(Killed):
        train("train.checkpoint_every=2")
    train("train.checkpoint_every=2", resume=True, reporter=listener)
    assert "resumed from the checkpoint" in listener.said
    assert not any("epoch 1/2" in said for said in listener.said)


def test_resume_without_a_checkpoint_says_that_it_begins_at_the_start(train, listener):
    train("train.epochs=1", resume=True, reporter=listener)
    assert any("no checkpoint to resume" in said for said in listener.said)


def test_a_finished_run_leaves_no_checkpoint_but_log_and_recipe(train):
    folder = train().folder
    assert folder.parent == runs_path()
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "lock", "log.jsonl", "recipe.yaml"]


def test_another_recipe_is_another_run(train, kill_after):
    kill_after(3)
    with pytest.raises(Killed):
        train()
    assert train("train.lr=0.02").outcome.steps == 6


def test_other_pictures_are_another_run(train, kill_after, add_data, copied_pictures: Path):
    kill_after(3)
    with pytest.raises(Killed):
        train()
    one, other = sorted((copied_pictures / "images").glob("train-*.png"))[:2]
    one.write_bytes(other.read_bytes())
    add_data("tiny", copied_pictures)
    assert train().outcome.steps == 6


@pytest.mark.parametrize(("dropout", "same"), [("0", True), ("0.2", False)])
def test_another_micro_batch_is_another_run_where_something_is_drawn(train, kill_after, dropout: str, same: bool):
    """Without dropout it changes the last bits alone, so that a run which is out of memory can go on with less."""
    dropout = f"method.mwa.dropout={dropout}"
    kill_after(3)
    with pytest.raises(Killed):
        train(dropout)
    if same:
        assert train(dropout, "train.micro_batch_size=3", resume=True).outcome.steps == 6
        assert len(list(runs_path().iterdir())) == 1
    else:
        train(dropout, "train.micro_batch_size=3")
        assert len(list(runs_path().iterdir())) == 2


@pytest.mark.parametrize("method", ["full", "head"])
def test_a_backbone_that_is_trained_may_draw_and_a_frozen_one_does_not(train, kill_after, method: str):
    kill_after(3)
    with pytest.raises(Killed):
        train(f"method.name={method}")
    train(f"method.name={method}", "train.micro_batch_size=3", resume=True)
    assert len(list(runs_path().iterdir())) == (2 if method == "full" else 1)


# -- micro batches and several captions a picture ---------------------------------------------------------------------


def test_micro_batches_learn_what_whole_batches_learn(train, registry: Registry):
    options = ("method.mwa.dropout=0", "data.captions_per_image=2", "train.batch_size=16")
    whole = tensors(registry, train(*options).entry)
    parts = train(*options, "train.micro_batch_size=3")
    found = tensors(registry, parts.entry)
    assert parts.outcome.micro_batch_size == 3
    assert all(torch.allclose(found[name], whole[name], rtol=1e-3, atol=1e-5) for name in whole)
    [attached] = registry.attachments(parts.entry, "training")
    assert attached["document"]["micro_batch_size"] == 3


@pytest.mark.parametrize("captions", ["random", "all"])
def test_with_several_captions_in_micro_batches_a_killed_run_ends_with_the_same_tensors(
    train, registry, kill_after, captions: str
):
    options = (
        f"data.captions={captions}", "data.captions_per_image=2", "train.batch_size=16", "train.micro_batch_size=6",
        "train.checkpoint_every=2",
    )  # fmt: skip
    whole = train(*options).entry
    kill_after(4)
    with pytest.raises(Killed):
        train(*options)
    resumed = train(*options, resume=True)
    assert resumed.outcome.steps == 6
    assert resumed.entry.digest == whole.digest


def test_several_captions_show_each_picture_once_with_all_of_them(train, monkeypatch):
    shapes = []
    loss = objective.contrastive_loss
    monkeypatch.setattr(
        objective, "contrastive_loss", lambda *a, **k: (shapes.append((len(a[0]), len(a[1]))), loss(*a, **k))[1]
    )
    plan = train("data.captions_per_image=5", "train.batch_size=10", "train.epochs=1")
    assert shapes == [(5, 10)] * 4 + [(4, 8)]  # 24 pictures of two captions each
    assert plan.outcome.steps == 5


# -- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_publishes_nothing(train, registry, monkeypatch):
    loss, calls = objective.contrastive_loss, iter(range(100))
    monkeypatch.setattr(
        objective, "contrastive_loss", lambda *a, **k: loss(*a, **k) * (math.nan if next(calls) == 3 else 1.0)
    )
    with pytest.raises(MwactlError, match="the loss became nan at step 4"):
        train()
    assert [entry.manifest["train"] for entry in registry.entries()] == [None]


def test_a_damaged_picture_stops_before_the_first_step(train, registry, add_data, copied_pictures: Path):
    (copied_pictures / "images" / "train-07.png").write_bytes(b"no picture")
    add_data("tiny", copied_pictures)
    with pytest.raises(DataError) as caught:
        train()
    assert "train-07.png" in str(caught.value.why)
    assert registry.names() == []
    assert not runs_path().exists()


def test_skip_trains_without_the_damaged_picture_and_says_so(train, add_data, copied_pictures: Path, listener):
    (copied_pictures / "images" / "train-07.png").write_bytes(b"no picture")
    add_data("tiny", copied_pictures)
    entry = train("data.on_error=skip", "train.epochs=1", reporter=listener).entry
    assert entry.manifest["data"][0]["images"] == 23
    assert any("train-07.png" in said for said in listener.said)
    assert any("1 of 24 pictures" in said for said in listener.said)


def test_a_single_pair_cannot_be_trained_on(train, add_data, copied_pictures: Path, resplit):
    resplit(copied_pictures, {"train-00.png": "train", "val-00.png": "val"})
    add_data("tiny", copied_pictures)
    with pytest.raises(UsageError, match="single pair"):
        train()


def test_a_missing_data_set_is_not_found_before_anything_is_built(train, registry):
    with pytest.raises(NotFoundError, match="flickr9k"):
        train("data.name=flickr9k")
    assert not runs_path().exists()


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_the_run_then_does_and_writes_nothing(train, tiny_recipe, models, empty_home: Path):
    before = sorted(empty_home.rglob("*"))
    plan = plan_training(load_recipe(str(tiny_recipe), ["train.batch_size=7", "data.captions=all"]).recipe)
    assert sorted(empty_home.rglob("*")) == before
    assert (plan.images, plan.captions, plan.pairs_per_epoch) == (24, 48, 48)
    assert (plan.steps_per_epoch, plan.total_steps) == (7, 14)
    trained = train("train.batch_size=7", "data.captions=all")
    assert trained.outcome.steps == plan.total_steps
    assert models[-1].trainable_count() == plan.trainable_parameters
    assert models[-1].backbone.count_parameters() == plan.parameters


def test_a_plan_counts_captions_and_the_micro_batch(tiny_recipe):
    plan = plan_training(load_recipe(str(tiny_recipe), ["data.captions_per_image=5", "train.batch_size=10"]).recipe)
    assert (plan.captions_per_image, plan.pairs_per_epoch, plan.steps_per_epoch) == (2, 48, 5)


def test_a_plan_finds_what_is_missing(tiny_recipe):
    with pytest.raises(NotFoundError, match="no split 'dev'"):
        plan_training(load_recipe(str(tiny_recipe), ["data.val_split=dev"]).recipe)
