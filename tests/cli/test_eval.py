from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mwactl.registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture
def backbone(tiny_clip: Path) -> str:
    return f"clip:local-dir:{tiny_clip}"


@pytest.fixture
def adapter(mwactl_cli, tiny_recipe: Path) -> str:
    return mwactl_cli("train", tiny_recipe, "train.epochs=1", "-q").stdout.strip()


def test_it_prints_both_directions_and_the_next_command(mwactl_cli, backbone, tiny_data):
    result = mwactl_cli("eval", "--backbone", backbone, "--data", "tiny")
    assert result.code == 0, result.stderr
    document = mwactl_cli("eval", "--backbone", backbone, "--data", "tiny", "--json").json
    lines = result.stdout.splitlines()
    assert lines[0] == f"clip:local-dir:{Path(backbone).name} on tiny test: 8 pictures × 16 captions, protocol full"
    for line, direction, key in ((lines[1], "image→text", "image_to_text"), (lines[2], "text→image", "text_to_image")):
        numbers = document[key]
        ends = document["intervals"][key]
        recalls = [
            cell
            for name in ("R@1", "R@5", "R@10")
            for cell in (f"{numbers[name]:.1f}", f"{(ends[name][1] - ends[name][0]) / 2:.1f}")
        ]
        assert line.split("\t") == [direction, *recalls, f"{numbers['median_rank']:g}", f"{numbers['mean_rank']:.1f}"]
    low, high = document["intervals"]["rsum"]
    margin = f"± {(high - low) / 2:.1f}"
    assert lines[3].startswith(f"RSUM {document['rsum']:.1f} {margin}   data {document['data']['digest'][:12]}…")
    assert lines[4].startswith("±: half of the 95 % interval over pictures")
    assert result.stderr == f"next: mwactl inject --backbone {backbone}\n"


def test_one_picture_has_no_intervals(mwactl_cli, backbone, tiny_pictures: Path, tmp_path: Path):
    (tmp_path / "one.csv").write_text("image,caption,split\ntest-00.png,a square,test\n")
    files = ["--annotations", tmp_path / "one.csv", "--images", tiny_pictures / "images"]
    assert mwactl_cli("data", "add", "one", "--format", "csv", *files, "-q").code == 0
    result = mwactl_cli("eval", "--backbone", backbone, "--data", "one")
    assert result.stdout.splitlines()[1] == "image→text\t100.0\t\t100.0\t\t100.0\t\t1\t1.0", result.stderr
    assert "±" not in result.stdout
    assert mwactl_cli("eval", "--backbone", backbone, "--data", "one", "--json").json["intervals"] is None


def test_json_has_the_promised_keys(mwactl_cli, adapter, backbone):
    result = mwactl_cli("eval", adapter, "--data", "tiny", "--json")
    document, entry = result.json, Registry.default().resolve(adapter)
    assert set(document) == {
        "schema", "images", "texts", "image_to_text", "text_to_image", "rsum", "protocol", "tie_rate", "intervals",
        "adapter", "backbone", "data", "zero_shot", "precision", "versions",
    }  # fmt: skip
    for direction in ("image_to_text", "text_to_image"):
        assert set(document[direction]) == {"R@1", "R@5", "R@10", "median_rank", "mean_rank"}
    assert set(document["intervals"]) == {"level", "resamples", "seed", "image_to_text", "text_to_image", "rsum"}
    for direction in ("image_to_text", "text_to_image"):
        assert set(document["intervals"][direction]) == {"R@1", "R@5", "R@10"}
        for name, (low, high) in document["intervals"][direction].items():
            assert low <= document[direction][name] <= high
    recalls = [document[d][f"R@{k}"] for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert document["rsum"] == pytest.approx(sum(recalls))
    assert (document["schema"], document["images"], document["texts"]) == (1, 8, 16)
    assert document["adapter"] == {"reference": adapter, "digest": entry.digest}
    assert document["backbone"]["name"] == f"clip:local-dir:{Path(backbone).name}"
    assert document["zero_shot"] is False
    assert result.stderr == ""


def test_quiet_prints_the_rsum_alone(mwactl_cli, adapter):
    document = mwactl_cli("eval", adapter, "--data", "tiny", "--json").json
    result = mwactl_cli("eval", adapter, "--data", "tiny", "-q")
    assert (result.stdout, result.stderr) == (f"{document['rsum']:.1f}\n", "")


def test_without_a_reference_it_says_which_adapter_is_evaluated(mwactl_cli, adapter):
    result = mwactl_cli("eval", "--data", "tiny")
    assert result.code == 0
    assert f"evaluating the newest adapter, {adapter}" in result.stderr
    assert result.stdout.startswith(f"{adapter} on tiny test")
    assert result.stderr.endswith(f"next: mwactl registry show {adapter}\n")


def test_the_result_is_shown_with_the_version(mwactl_cli, adapter):
    document = mwactl_cli("eval", adapter, "--data", "tiny", "--json").json
    attachments = mwactl_cli("registry", "show", adapter, "--json").json["attachments"]
    assert document in [attached["document"] for attached in attachments]


def test_a_zero_shot_claim_about_its_own_data_exits_5(mwactl_cli, adapter):
    result = mwactl_cli("eval", adapter, "--zero-shot", "tiny")
    assert (result.code, result.stdout) == (5, "")
    assert f"{adapter} is not zero-shot on tiny" in result.stderr
    assert f"fix: mwactl eval {adapter} --data tiny" in result.stderr


def test_training_pictures_under_another_name_exit_5_with_their_number(
    mwactl_cli, adapter, add_data, tiny_pictures: Path
):
    add_data("holiday", tiny_pictures)
    result = mwactl_cli("eval", adapter, "--zero-shot", "holiday", "--split", "train")
    assert result.code == 5
    assert "24 of the 24 pictures of its train split are in the training data" in result.stderr
    claim = mwactl_cli("eval", adapter, "--zero-shot", "holiday")  # its test split is new to the adapter
    assert claim.code == 0
    assert "zero-shot: checked" in claim.stdout


def test_damaged_pictures_stop_or_are_skipped_and_counted(
    mwactl_cli, adapter, add_data, tiny_pictures: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(tiny_pictures, tmp_path / "damaged"))
    (folder / "images" / "test-05.png").write_bytes(b"no picture")
    add_data("damaged", folder)
    stopped = mwactl_cli("eval", adapter, "--data", "damaged")
    assert (stopped.code, stopped.stdout) == (1, "")
    assert "test-05.png" in stopped.stderr
    skipped = mwactl_cli("eval", adapter, "--data", "damaged", "--on-error", "skip", "--json")
    assert skipped.code == 0
    assert (skipped.json["images"], skipped.json["texts"], skipped.json["data"]["skipped"]) == (7, 14, 1)
    assert "test-05.png" in skipped.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "--data"),
        (["--data", "tiny", "--zero-shot", "tiny"], 2, "exactly one"),
        (["--backbone", "clip-vit-b-32", "--zero-shot", "tiny"], 2, "--backbone clip-vit-b-32 --data tiny"),
        (["--data", "tiny", "--on-error", "perhaps"], 2, "--on-error skip"),
        (["--data", "tiny"], 3, "fix: mwactl inject"),
        (["absent", "--data", "tiny"], 3, "absent"),
        (["--backbone", "BACKBONE", "--data", "absent"], 3, "fix: mwactl data add absent"),
        (["--backbone", "BACKBONE", "--data", "tiny", "--split", "dev"], 3, "no split 'dev'"),
        (["--backbone", "BACKBONE", "--data", "tiny", "--protocol", "quick"], 2, "coco-1k"),
        (["--backbone", "BACKBONE", "--data", "tiny", "--protocol", "coco-1k"], 2, "5000 images"),
        (["--backbone", "BACKBONE", "--data", "tiny", "--device", "cuda:99"], 2, "cuda:99"),
        (["--backbone", "BACKBONE", "--data", "tiny", "--device", "abacus"], 2, "abacus"),
        (["--backbone", "BACKBONE", "--data", "tiny", "--precision", "fp8"], 2, "fp8"),
    ],
)
def test_mistakes_have_their_exit_codes_and_a_way_out(mwactl_cli, tiny_data, backbone, arguments, code, said):
    result = mwactl_cli("eval", *[argument.replace("BACKBONE", backbone) for argument in arguments])
    assert (result.code, result.stdout) == (code, ""), result.stderr
    assert said in result.stderr
    assert "bug" not in result.stderr


@pytest.mark.shared
def test_a_pretrained_model_has_the_numbers_that_are_known_of_it(mwactl_cli, shared: Path):
    """Known from open_clip's own model, transform and tokenizer; one caption is 0.18, one picture 0.4.

    Known is 3.6 for image→text at 1. Two of the 250 pictures are nearest to "vehicle", which is a caption of both:
    a tie, which counts against the model here, and for it there.
    """
    data = shared / "data" / "emoji" / "google"
    files = ["--annotations", data / "dataset_emoji_google.json", "--images", data / "images"]
    assert mwactl_cli("data", "add", "emoji", "--format", "karpathy", *files, "-q").code == 0
    name = f"clip:local-dir:{shared / 'backbones' / 'dinov2s-minilm'}"
    document = mwactl_cli("eval", "--backbone", name, "--data", "emoji", "--device", "cpu", "--json").json
    assert (document["images"], document["texts"], document["precision"]) == (250, 561, "fp32")
    recalls = {
        direction: [document[direction][f"R@{k}"] for k in (1, 5, 10)]
        for direction in ("text_to_image", "image_to_text")
    }
    assert recalls["text_to_image"] == pytest.approx([2.5, 8.9, 15.0], abs=0.06)
    assert recalls["image_to_text"] == pytest.approx([3.6 - 2 * 0.4, 7.2, 12.4], abs=0.06)
