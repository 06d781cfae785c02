from __future__ import annotations

from dataclasses import asdict, fields

import pytest
from pydantic import TypeAdapter

from mwactl.config.presets import complete
from mwactl.config.recipe import MethodConfig, MwaConfig


@pytest.mark.parametrize(
    ("preset", "alpha", "layer_norm", "dropout"), [("paper", 1.0, True, 0.0), ("authors-code", 0.1, False, 0.1)]
)
def test_a_preset_gives_its_own_values_to_unset_options(preset, alpha, layer_norm, dropout):
    whole = complete(MwaConfig(preset=preset))
    assert (whole.alpha, whole.layer_norm, whole.dropout) == (alpha, layer_norm, dropout)


@pytest.mark.parametrize("preset", ["paper", "authors-code"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("alpha", 0.0), ("alpha", "learned"), ("layer_norm", False), ("layer_norm", True), ("dropout", 0.0)],
)
def test_a_preset_never_changes_what_is_given(preset, option, value):
    whole = complete(MwaConfig(preset=preset, **{option: value}))
    assert getattr(whole, option) == value
    unset = complete(MwaConfig(preset=preset))
    assert {**asdict(whole), option: None} == {**asdict(unset), option: None}


def test_a_complete_configuration_leaves_nothing_unset_and_stays_as_it_is():
    whole = complete(MwaConfig(preset="authors-code", alpha=0.6))
    assert [option.name for option in fields(whole)] == [option.name for option in fields(MwaConfig)]
    assert None not in asdict(whole).values()
    assert complete(whole) == whole


def test_every_preset_has_values():
    choices = TypeAdapter(MwaConfig).json_schema()["properties"]["preset"]["enum"]
    assert [complete(MwaConfig(preset=choice)).preset for choice in choices] == choices


def test_a_manifest_that_names_every_value_loads_to_what_the_paper_preset_is():
    document = {"name": "mwa", "mwa": {"preset": "paper", "alpha": 1.0, "layer_norm": True, "dropout": 0.0}}
    method = TypeAdapter(MethodConfig).validate_python(document)
    assert complete(method.mwa) == complete(MwaConfig())
