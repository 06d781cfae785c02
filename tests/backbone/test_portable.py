from __future__ import annotations

from dataclasses import replace

from mwactl.backbone.portable import Portable, no_older_than_here
from mwactl.files import canonical_json, sha256_bytes

DATA = Portable({"size": [2, 3]}, {"file": "a.txt", "length": 7}, {"a.txt": b"words"}, ("ftfy>=6",))


def test_its_digest_is_that_of_the_file_in_a_bundle():
    assert DATA.digest == sha256_bytes(canonical_json(DATA.preprocess()))
    assert DATA.preprocess()["files"] == {"a.txt": sha256_bytes(b"words")}


def test_other_pixels_other_ids_and_another_vocabulary_are_another_digest():
    others = [
        replace(DATA, image={"size": [3, 2]}), replace(DATA, text={**DATA.text, "length": 8}),
        replace(DATA, files={"a.txt": b"Words"}),
    ]  # fmt: skip
    assert len({DATA.digest, *(other.digest for other in others)}) == 4


def test_where_it_is_used_does_not_change_its_digest():
    assert replace(DATA, requirements=("ftfy>=7",)).digest == DATA.digest


def test_requirements_are_what_pip_reads():
    (requirement,) = no_older_than_here("numpy")
    name, _, version = requirement.partition(">=")
    assert name == "numpy"
    assert version[0].isdigit()
