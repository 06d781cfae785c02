"""Filters: `licence=cc-by`, `year>=2019`. A row that lacks the field is never found by a filter on it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mwactl.errors import UsageError

_CONDITION = re.compile(r"(?P<field>[^=!<>]+)(?P<operator>!=|==?|<=?|>=?)(?P<value>.*)", re.DOTALL)
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """One thing that a row has to fulfil."""

    field: str
    operator: Literal["=", "!=", "<", "<=", ">", ">="]
    value: str

    def holds(self, value: Any) -> bool:
        """Whether a field's value fulfils it; numbers are compared as numbers, also those written in quotes."""
        mine, other = _number(value), _number(self.value)
        if compare := _ORDER.get(self.operator):
            return mine is not None and other is not None and bool(compare(mine, other))
        equal = mine == other if mine is not None and other is not None else _text(value) == self.value
        return equal if self.operator == "=" else not equal


def parse(conditions: Sequence[str]) -> list[Condition]:
    """Conditions as they are typed.

    Raises:
        UsageError: One is not `field=value` (or `==`), `field!=value`, or `<`, `<=`, `>`, `>=` and a number.
    """
    parsed = []
    for typed in conditions:
        found = _CONDITION.fullmatch(typed)
        if found is None:
            raise UsageError(
                f"--where {typed}: not a condition",
                why="a condition is field=value, field!=value, field<1, field<=1, field>1 or field>=1",
                fix="quote it for the shell: --where 'year>2019'",
            )
        sign: Any = found["operator"].replace("==", "=")
        condition = Condition(found["field"].strip(), sign, found["value"].strip())
        if condition.operator in _ORDER and _number(condition.value) is None:
            raise UsageError(f"--where {typed}: {condition.value!r} is no number", fix="compare texts with = and !=")
        parsed.append(condition)
    return parsed


def fulfils(fields: Mapping[str, Any], conditions: Sequence[Condition]) -> bool:
    """Whether a row's fields fulfil all conditions."""
    for condition in conditions:
        value = fields.get(condition.field)
        if value is None or isinstance(value, list | dict) or not condition.holds(value):
            return False
    return True


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _text(value: Any) -> str:
    """A value as it would be typed: true and false as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)
