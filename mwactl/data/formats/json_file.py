"""Annotation files that are one JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mwactl.data.formats.text import read_text
from mwactl.errors import DataError


def read_json(path: Path) -> Any:
    """The document.

    Raises:
        NotFoundError: There is no such file.
        DataError: It is not UTF-8, or not JSON; the error names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            "the annotation file is not valid JSON",
            where=f"{path}:{error.lineno}",
            why=f"{error.msg} at line {error.lineno}, column {error.colno}",
            fix="is it a whole download, and the right --format?",
        ) from error
    except (ValueError, RecursionError) as error:  # numbers or nesting beyond Python's limits
        raise DataError("the annotation file's JSON cannot be read", where=str(path), why=str(error)) from error
