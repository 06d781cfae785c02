from __future__ import annotations

import pytest

from mwactl.errors import UsageError
from mwactl.registry import Reference, parse_reference
from mwactl.registry.reference import checked_name

HEX = "ab12cdef" * 8


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("coco", Reference("coco")),
        ("coco@3", Reference("coco", version=3)),
        (f"coco@sha256:{HEX[:8]}", Reference("coco", digest_prefix=HEX[:8])),
        (f"coco@sha256:{HEX.upper()}", Reference("coco", digest_prefix=HEX)),
        ("coco:prod", Reference("coco", alias="prod")),
        ("./coco", Reference("", folder="./coco")),
        ("..", Reference("", folder="..")),
        ("/a/Folder@1", Reference("", folder="/a/Folder@1")),
        ("~/coco", Reference("", folder="~/coco")),
        ("COCO-Mwa_2.1@12", Reference("coco-mwa_2.1", version=12)),
        ("a" * 64, Reference("a" * 64)),
    ],
)
def test_every_spelling_is_read(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "name",
    ["", "..", "a..b", "a.", "../coco", "/etc/passwd", "a/b", "a\\b", "a\0b", ".hidden", "-x", "a b", "a\n", "a" * 65,
     "é", "\u212a2", "con", "CON", "nul.txt", "Aux.1", "com1", "lpt9.x"],
)  # fmt: skip
def test_a_dangerous_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        checked_name(name)


@pytest.mark.parametrize("name", ["console", "com", "com10", "nully", "0", "a.b"])
def test_a_name_that_only_looks_dangerous_is_taken(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "text", ["coco@", "coco@0", "coco@03", "coco@-1", "coco@latest", f"coco@sha256:{HEX[:7]}", f"coco@md5:{HEX}",
             "coco@sha256:xyzxyzxyz", f"coco@sha256:{HEX}0", "coco@1@2"],
)  # fmt: skip
def test_a_wrong_version_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_reference(text)
    assert "a number, or sha256:" in str(error.value)
