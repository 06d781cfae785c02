from __future__ import annotations

import pytest

from mwactl.card.subject import is_hub_id, without_folder


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("clip-vit-b-32", "clip-vit-b-32"),
        ("clip:ViT-B-32/openai", "clip:ViT-B-32/openai"),
        ("clip:local-dir:/home/someone/tiny", "clip:local-dir:tiny"),
        ("clip:local-dir:models/tiny", "clip:local-dir:tiny"),
        ("beit3:local-dir:C:\\models\\tiny", "beit3:local-dir:tiny"),
        ("/home/someone/weights.safetensors", "weights.safetensors"),
        ("~/weights.safetensors", "weights.safetensors"),
        ("D:\\weights.safetensors", "weights.safetensors"),
    ],
)
def test_places_on_one_machine_are_left_out(given: str, shown: str) -> None:
    assert without_folder(given) == shown


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("coco", True),
        ("org/coco-2014", True),
        ("a/b/c", False),
        ("", False),
        ("-x", False),
        ("café", False),
        (None, False),
    ],
)
def test_a_name_on_the_hub_has_at_most_two_parts(name: object, is_one: bool) -> None:
    assert is_hub_id(name) is is_one
