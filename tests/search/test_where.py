from __future__ import annotations

import pytest

from mwactl.errors import UsageError
from mwactl.search.where import Condition, fulfils, parse

ROW = {
    "id": "a.jpg", "licence": "cc-by", "year": 2019, "likes": "12", "ratio": 1.5, "public": True, "tags": ["x"],
    "none": None, "big": "1e3", "nan": "nan", "equation": "a=b",
}  # fmt: skip


@pytest.mark.parametrize(
    "condition",
    ["licence=cc-by", "year=2019", "year>2018", "year<2019.5", "likes>11", "likes=12.0", "ratio=1.5", "public=true",
     "licence!=cc0", "year!=2018", "year==2019", "licence==cc-by",
     "year>=2019", "year<=2019", "id=a.jpg", "big=1000", " licence = cc-by ", "equation=a=b", "nan=nan"],
)  # fmt: skip
def test_what_fulfils_a_condition(condition: str):
    assert fulfils(ROW, parse([condition]))


@pytest.mark.parametrize(
    "condition",
    ["licence=CC-BY", "year>2019", "year<2019", "year>=2020", "year<=2018", "year==2018",
     "licence>=3", "licence>3", "public=1", "public=True", "absent=1", "absent!=1",
     "tags=x", "tags!=x", "none=None", "none!=x", "licence!=cc-by", "likes!=12.0", "nan>0", "nan<0"],
)  # fmt: skip
def test_what_does_not(condition: str):
    assert not fulfils(ROW, parse([condition]))


def test_all_conditions_have_to_hold():
    assert fulfils(ROW, parse(["year>2018", "licence=cc-by"]))
    assert not fulfils(ROW, parse(["year>2018", "licence=cc0"]))
    assert fulfils(ROW, [])


def test_the_first_operator_divides_field_and_value():
    assert parse(["a!=b=c"]) == [Condition("a", "!=", "b=c")]
    assert parse(["a==b=c"]) == [Condition("a", "=", "b=c")]
    assert parse(["a="]) == [Condition("a", "=", "")]


@pytest.mark.parametrize("typed", ["licence", "=x", "", "year>", "year>old", "year<nan", "year>=old", "year><3"])
def test_a_mistyped_condition_is_told(typed: str):
    with pytest.raises(UsageError):
        parse([typed])
