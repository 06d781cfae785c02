from __future__ import annotations

import pytest

from mwactl.config import options, parse_recipe
from mwactl.config.options import similar_option, written


def test_options_are_exactly_the_leaves_of_a_recipe(minimal):
    def leaves(document, prefix=""):
        for key, value in document.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]

    document = parse_recipe(minimal).as_dict()
    assert [path for path, option in options().items() if not option.is_section] == sorted(
        leaves(document), key=list(options()).index
    )


@pytest.mark.parametrize("path", list(options()))
def test_every_option_has_a_description_and_says_what_it_may_be(path):
    option = options()[path]
    assert option.description.endswith((".", "`."))
    assert option.expected and "{" not in option.expected


@pytest.mark.parametrize("path", [path for path, option in options().items() if not option.is_section])
def test_every_default_written_out_is_the_default(minimal, path):
    option = options()[path]
    if option.required:
        assert path in ("name", "backbone.name", "data.name")
    else:
        assert (
            parse_recipe(minimal, overrides=[f"{path}={written(option.default)}"]).digest
            == parse_recipe(minimal).digest
        )


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("train.epoch", "train.epochs"),
        ("tran", "train"),
        ("method.knowledge_extractor", "method.mwa.knowledge_extractor"),
        ("batch_size", "train.batch_size"),
        ("data.split", "data.val_split"),
        ("qqqq", None),
    ],
)
def test_similar_option(wrong, meant):
    found = similar_option(wrong)
    assert (found.path if found else None) == meant
