from __future__ import annotations

import json
from pathlib import Path

import pytest

from mwactl.errors import Interrupted
from mwactl.home import runs_path
from mwactl.registry import Registry


def test_it_prints_what_was_trained_and_the_next_command(mwactl_cli, tiny_recipe: Path):
    result = mwactl_cli("train", tiny_recipe)
    assert result.code == 0, result.stderr
    trained, best, log = result.stdout.splitlines()
    assert trained.startswith("trained in ")
    digest = Registry.default().resolve("tiny-mwa@2").digest
    assert ": tiny-mwa@2   " in trained
    assert trained.endswith(f"sha256:{digest[:12]}…")
    assert best.startswith("best epoch ")
    assert Path(log.removeprefix("log: ")).is_file()
    assert "epoch 2/2  validation RSUM" in result.stderr
    assert result.stderr.endswith("next: mwactl eval tiny-mwa@2 --data tiny\n")


def test_json_has_the_promised_keys(mwactl_cli, tiny_recipe: Path):
    result = mwactl_cli("train", tiny_recipe, "train.epochs=1", "--json")
    document, entry = result.json, Registry.default().resolve("tiny-mwa@2")
    assert set(document) == {
        "schema", "adapter", "digest", "steps", "seconds", "seconds_per_step", "peak_memory_bytes",
        "trainable_parameters", "best_epoch", "validation_rsum", "folder",
    }  # fmt: skip
    assert (document["schema"], document["adapter"], document["digest"]) == (1, "tiny-mwa@2", entry.digest)
    assert (document["steps"], document["best_epoch"]) == (3, 1)
    assert document["validation_rsum"] == entry.manifest["metrics"][0]["rsum"]
    assert 0 < document["seconds_per_step"] < document["seconds"]
    assert document["peak_memory_bytes"] > 10_000_000
    assert document["trainable_parameters"] == entry.manifest["tensors"]["parameters"]
    assert Path(document["folder"]).parent == runs_path()
    assert "next:" not in result.stderr


def test_quiet_prints_the_reference_alone(mwactl_cli, tiny_recipe: Path):
    result = mwactl_cli("train", tiny_recipe, "train.epochs=1", "-q")
    assert (result.code, result.stdout, result.stderr) == (0, "tiny-mwa@2\n", "")


def test_a_dry_run_says_what_would_happen_and_writes_nothing(mwactl_cli, tiny_recipe: Path, empty_home: Path):
    before = sorted(empty_home.rglob("*"))
    human = mwactl_cli("train", tiny_recipe, "--dry-run")
    assert human.code == 0
    assert "data      tiny train: 24 pictures, 48 captions" in human.stdout
    assert "steps     3 an epoch × 2 epochs = 6 of 8 pairs" in human.stdout
    assert "nothing written (dry run)" in human.stdout
    assert human.stderr == f"next: mwactl train {tiny_recipe}\n"
    document = mwactl_cli("train", tiny_recipe, "--dry-run", "--json").json
    assert (document["schema"], document["dry_run"]) == (1, True)
    assert (document["steps_per_epoch"], document["total_steps"], document["images"]) == (3, 6, 24)
    assert document["recipe"]["train"]["epochs"] == 2
    memory = document["memory"]
    fixed = memory["weights"] + memory["adapter"] + memory["gradients_and_optimiser"]
    fixed += memory["activations_per_batch"]
    assert memory["total"] == fixed + 8 * memory["activations_per_pair"]
    assert mwactl_cli("train", tiny_recipe, "--dry-run", "-q").stdout == "tiny-mwa\n"
    assert sorted(empty_home.rglob("*")) == before


def test_a_dry_run_counts_with_the_micro_batch_and_the_captions_of_a_picture(mwactl_cli, tiny_recipe: Path):
    def memory(*options: str) -> int:
        return mwactl_cli("train", tiny_recipe, "--dry-run", "--json", "train.batch_size=24", *options).json["memory"][
            "total"
        ]

    whole = memory()
    assert memory("train.micro_batch_size=auto") == memory("train.micro_batch_size=24") == whole
    assert memory("train.micro_batch_size=2") < memory("train.micro_batch_size=12") < whole
    assert memory("data.captions_per_image=2") < whole
    options = ["train.micro_batch_size=4", "data.captions_per_image=5", "train.batch_size=24"]
    human = mwactl_cli("train", tiny_recipe, "--dry-run", *options)
    assert "of 12 pictures with up to 2 captions each" in human.stdout
    assert "a pair, 4 at once)" in human.stdout
    assert (
        "in parts where less fits"
        in mwactl_cli("train", tiny_recipe, "--dry-run", "train.micro_batch_size=auto").stdout
    )


def test_a_packaged_recipe_is_announced_with_the_way_to_change_it(mwactl_cli, tiny_data: str, tiny_clip: Path):
    changes = [f"data.name={tiny_data}", f"backbone.name=clip:local-dir:{tiny_clip}"]
    result = mwactl_cli("train", "coco", *changes, "--dry-run")
    assert result.code == 0, result.stderr
    assert "using the packaged recipe coco; to change it: mwactl recipes copy coco" in result.stderr
    assert "using" not in mwactl_cli("train", "coco", *changes, "--dry-run", "-q").stderr


def test_every_mistake_of_a_recipe_is_shown_with_its_line_and_nothing_is_started(
    mwactl_cli, tiny_recipe: Path, empty_home: Path
):
    text = tiny_recipe.read_text().replace("epochs: 2", "epochs: -2").replace("lr: 0.01", "learning_rate: 0.01")
    tiny_recipe.write_text(text)
    lines = text.splitlines()
    result = mwactl_cli("train", tiny_recipe, "train.seed=x")
    assert (result.code, result.stdout) == (2, "")
    for mistake in ("  epochs: -2", "  learning_rate: 0.01"):
        assert f"{tiny_recipe} line {lines.index(mistake) + 1}" in result.stderr
    assert "train.seed=x" in result.stderr
    assert result.stderr.endswith("3 problems in the recipe; nothing was started\n")
    assert not (empty_home / "runs").exists()
    assert not (empty_home / "registry").exists()


def test_a_missing_recipe_exits_3(mwactl_cli):
    result = mwactl_cli("train", "absent.yaml")
    assert (result.code, result.stdout) == (3, "")
    assert "fix: mwactl recipes list" in result.stderr


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_missing_data_set_exits_3_with_the_line_that_adds_it(mwactl_cli, tiny_recipe: Path, dry):
    result = mwactl_cli("train", tiny_recipe, "data.name=coco", *dry)
    assert (result.code, result.stdout) == (3, "")
    assert "fix: mwactl data add coco --format karpathy --annotations FILE --images DIR" in result.stderr


def test_a_damaged_picture_exits_1_and_is_named(mwactl_cli, tiny_recipe, add_data, tiny_pictures: Path, tmp_path: Path):
    import shutil

    folder = Path(shutil.copytree(tiny_pictures, tmp_path / "damaged"))
    (folder / "images" / "train-07.png").write_bytes(b"no picture")
    add_data("tiny", folder)
    result = mwactl_cli("train", tiny_recipe)
    assert (result.code, result.stdout) == (1, "")
    assert "train-07.png" in result.stderr
    assert "fix: repair these files, or leave them out: data.on_error=skip" in result.stderr
    skipped = mwactl_cli("train", tiny_recipe, "train.epochs=1", "data.on_error=skip", "-q")
    assert skipped.code == 0
    assert "train-07.png" in skipped.stderr, "warnings are shown even where quiet is asked for"


def test_an_unfinished_run_exits_2_with_the_two_ways_on(mwactl_cli, tiny_recipe: Path, monkeypatch):
    from mwactl.train import checkpoint

    save = checkpoint.save

    def save_and_stop(*arguments, **options) -> None:
        save(*arguments, **options)
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        assert mwactl_cli("train", tiny_recipe).code == 130
    result = mwactl_cli("train", tiny_recipe)
    assert (result.code, result.stdout) == (2, "")
    assert f"fix: mwactl train {tiny_recipe} --resume" in result.stderr
    assert "--restart" in result.stderr
    both = mwactl_cli("train", tiny_recipe, "--resume", "--restart")
    assert (both.code, both.stdout) == (2, "")
    assert mwactl_cli("train", tiny_recipe, "--restart", "-q").stdout == "tiny-mwa@2\n"


def test_the_log_of_a_run_is_json_lines(mwactl_cli, tiny_recipe: Path):
    folder = Path(mwactl_cli("train", tiny_recipe, "--json").json["folder"])
    events = [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert events == ["start", "step", "validation", "validation", "end", "published"]
