"""The library for programs: what stands in its documentation works, and says what the command line says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import mwactl
from mwactl import api
from mwactl.errors import ExitCode, UsageError


@pytest.fixture
def small(tiny_recipe):
    """The tiny recipe with one epoch."""
    return tiny_recipe, ["train.epochs=1", "data.workers=0"]


def test_every_public_name_is_there_and_documented():
    for name in api.__all__:
        assert getattr(api, name).__doc__, name
    assert mwactl.load.__doc__ and mwactl.__version__


def test_importing_it_costs_no_torch():
    program = "import sys, mwactl, mwactl.api; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_train_evaluate_load_and_the_registry_know_each_other(small, tiny_data, tiny_pictures):
    recipe, overrides = small
    entry = api.train(recipe, overrides)
    assert entry.reference in {each.reference for each in api.Registry.default().entries(entry.name)}
    document = api.evaluate(entry.reference, data=tiny_data, split="val")
    assert document["adapter"]["reference"] == entry.reference
    assert 0 <= document["rsum"] <= 600
    model = mwactl.load(entry.reference, device="cpu")
    file = sorted(tiny_pictures.rglob("*.png"))[0]
    opened = Image.open(file).convert("RGB")
    rows = model.encode_images([file, str(file), opened, np.asarray(opened)])
    assert rows.dtype == np.float32 and rows.shape == (4, model.width)
    assert np.allclose(rows, rows[:1], atol=1e-6) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert model.encode_texts(["a red picture"]).shape == (1, model.width)


def test_a_recipe_may_be_a_mapping_and_gives_the_same_run(small):
    from mwactl.config import load_recipe

    recipe, overrides = small
    first = api.train(recipe, overrides)
    again = api.train(load_recipe(str(recipe), overrides).as_dict())
    assert again.manifest["tensors"]["digest"] == first.manifest["tensors"]["digest"]


def test_inject_publishes_once_and_a_bare_backbone_is_evaluated(tiny_clip, tiny_data):
    backbone = f"clip:local-dir:{tiny_clip}"
    entry = api.inject(backbone, ["method.mwa.knowledge_extractor=4"], name="fresh")
    assert api.inject(backbone, ["method.mwa.knowledge_extractor=4"], name="fresh") == entry
    untrained = api.evaluate("fresh", data=tiny_data, split="val")
    bare = api.evaluate(backbone=backbone, data=tiny_data, split="val")
    assert bare["adapter"] is None
    assert bare["rsum"] == untrained["rsum"]
    with pytest.raises(UsageError, match="zero_shot cannot be checked for a bare backbone"):
        api.evaluate(backbone=backbone, data=tiny_data, zero_shot=True)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: api.inject("clip-tiny-emoji", ["train.lr=1"]), ExitCode.USAGE),
        (lambda: api.inject("clip-tiny-emoji", ["method.mwa.alfa=1"]), ExitCode.USAGE),
        (lambda: api.train({"name": "x", "backbone": {"name": "none"}}), ExitCode.USAGE),
        (lambda: api.train("no-such-recipe.yaml"), ExitCode.NOT_FOUND),
        (lambda: api.evaluate("no-such-adapter", data="none"), ExitCode.NOT_FOUND),
        (lambda: mwactl.load("no-such-adapter"), ExitCode.NOT_FOUND),
    ],
)
def test_errors_are_those_of_the_command_line(call, code):
    with pytest.raises(api.MwactlError) as raised:
        call()
    assert raised.value.exit_code == code
