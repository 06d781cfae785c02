from __future__ import annotations

from pathlib import Path

import pytest

from mwactl.registry import Registry


@pytest.fixture
def name(tiny_clip: Path) -> str:
    return f"clip:local-dir:{tiny_clip}"


def test_it_prints_what_was_injected_and_the_next_command(mwactl_cli, name):
    result = mwactl_cli("inject", "--backbone", name, "--name", "mine", "--knowledge-extractor", "4")
    assert result.code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{name}   1,658,369 parameters, frozen")
    assert lines[1] == "4 Knowledge Extractors and 4 Alignment Enhancers at 4 blocks"
    digest = Registry.default().resolve("mine@1").digest
    assert lines[-1] == f"published mine@1   sha256:{digest[:12]}…"
    assert result.stderr.startswith(f"next: mwactl train RECIPE name=mine backbone.name={name}")


def test_json_has_the_promised_keys(mwactl_cli, name):
    result = mwactl_cli("inject", "--backbone", name, "--name", "mine", "--alignment-enhancer", "8", "--json")
    document = result.json
    assert set(document) == {
        "schema", "adapter", "backbone", "method", "trainable_parameters", "sites", "modules", "weights",
        "missing_in_weights", "memory",
        "dry_run",
    }  # fmt: skip
    entry = Registry.default().resolve("mine@1")
    assert (document["schema"], document["adapter"], document["method"]) == (1, "mine@1", "mwa")
    assert document["backbone"] == {
        "name": name, "parameters": 1658369, "fingerprint": entry.manifest["base"]["fingerprint"],
    }  # fmt: skip
    # Per block: LN, down, up of a Knowledge Extractor of 64 and an Alignment Enhancer of 8, at width 32.
    block = 2 * 64 + (32 * 64 + 64) + (64 * 32 + 32) + (32 * 8 + 8) + (8 * 32 + 32)
    assert document["trainable_parameters"] == 4 * block == entry.manifest["tensors"]["parameters"]
    assert document["sites"] == 4
    assert document["modules"] == {"knowledge_extractor": 4, "alignment_enhancer": 4}
    assert (document["dry_run"], document["memory"], result.stderr) == (False, None, "")


def test_quiet_prints_the_reference_alone(mwactl_cli, name):
    result = mwactl_cli("inject", "--backbone", name, "--name", "mine", "-q")
    assert (result.code, result.stdout, result.stderr) == (0, "mine@1\n", "")


def test_injecting_again_gives_the_same_version(mwactl_cli, name):
    for _ in range(2):
        assert mwactl_cli("inject", "--backbone", name, "--name", "mine", "-q").stdout == "mine@1\n"
    assert mwactl_cli("inject", "--backbone", name, "--name", "mine", "--seed", "1", "-q").stdout == "mine@2\n"


def test_a_dry_run_of_clip_vit_b_32_has_the_papers_counts_and_writes_nothing(mwactl_cli, empty_home: Path):
    result = mwactl_cli("inject", "--backbone", "clip-vit-b-32", "--dry-run", "--json")
    assert result.code == 0
    document = result.json
    assert document["trainable_parameters"] == 5995008
    assert document["backbone"] == {"name": "clip-vit-b-32", "parameters": 151277313, "fingerprint": None}
    assert (document["adapter"], document["dry_run"], document["sites"]) == (None, True, 24)
    memory = document["memory"]
    fixed = memory["weights"] + memory["adapter"] + memory["gradients_and_optimiser"]
    fixed += memory["activations_per_batch"]
    assert memory["adapter"] == 4 * 5995008
    assert memory["total_at_batch"]["512"] == fixed + 512 * memory["activations_per_pair"]
    assert not empty_home.exists()


def test_a_dry_run_for_people_says_that_nothing_was_written(mwactl_cli, name, empty_home: Path):
    result = mwactl_cli("inject", "--backbone", name, "--dry-run")
    assert "nothing written (dry run)" in result.stdout
    assert "training memory (fp32, estimate)" in result.stdout
    assert result.stderr == f"next: mwactl inject --backbone {name}\n"
    assert not empty_home.exists()


def test_short_options_and_recipe_options_say_the_same(mwactl_cli, name):
    short = mwactl_cli(
        "inject", "--backbone", name, "--name", "mine", "--modalities", "text", "--preset", "paper", "-q"
    )
    assert short.code == 0
    long = mwactl_cli("inject", "--backbone", name, "method.mwa.modalities=[text]", "--name", "mine", "-q")
    assert long.stdout == short.stdout == "mine@1\n"
    config = Registry.default().resolve("mine@1").manifest["method"]["config"]
    assert config["mwa"]["modalities"] == ["text"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--backbone", "clip-vit-b-33"], 3, "did you mean `clip-vit-b-32`"),
        (["--backbone", "clip-vit-b-32", "--weights", "absent"], 3, "--weights"),
        (["--backbone", "clip-vit-b-32", "--name", "Not A Name", "--dry-run"], 2, "name"),
        (["--backbone", "clip-vit-b-32", "--knowledge-extractor", "-1", "--dry-run"], 2, "knowledge_extractor"),
        (["--backbone", "clip-vit-b-32", "method.mwa.wings=2", "--dry-run"], 2, "wings"),
        (["--backbone", "clip:RN50", "--dry-run"], 4, "--modalities text"),
    ],
)
def test_mistakes_have_their_exit_codes_and_a_way_out(mwactl_cli, empty_home: Path, arguments, code, said):
    result = mwactl_cli("inject", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.stderr
    assert not empty_home.exists()
