from __future__ import annotations

import pytest

from mwactl.errors import UsageError
from mwactl.remote.address import HubAddress, OciAddress, parse_address

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://my-group/Coco-MWA", HubAddress("my-group/Coco-MWA")),
        ("hf://a/b@refs/pr/3", HubAddress("a/b", "refs/pr/3")),
        ("oci://localhost:5000/coco:v1", OciAddress("localhost:5000", "coco", "v1")),
        ("oci://ghcr.io/team/adapters/coco:V_1.0", OciAddress("ghcr.io", "team/adapters/coco", "V_1.0")),
        ("oci://[::1]:5000/coco:v1", OciAddress("[::1]:5000", "coco", "v1")),
        (f"oci://ghcr.io/coco@sha256:{DIGEST}", OciAddress("ghcr.io", "coco", f"sha256:{DIGEST}")),
    ],
)
def test_an_address_is_read_and_spelt_the_same(text: str, address: HubAddress | OciAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "coco-mwa",
        "hf://coco-mwa",
        "hf://a/b/c",
        "hf://a/../b",
        "hf://a/b@../../x",
        "hf://-a/b",
        "https://huggingface.co/a/b",
        "oci://localhost:5000/coco",
        "oci://localhost:5000/Coco:v1",
        "oci://localhost:5000/../coco:v1",
        "oci://user:secret@host/coco:v1",
        "oci://host/coco:v1?x=y",
        "oci://host/coco@sha256:ab",
        "oci://host/coco:v1\nX: y",
    ],
)
def test_anything_else_is_no_address_and_the_error_says_what_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no address of a remote.*hf://ORGANISATION/NAME.*oci://HOST"):
        parse_address(text)


def test_a_name_is_proposed_from_the_last_part() -> None:
    assert parse_address("hf://my-group/Coco-MWA").name == "Coco-MWA"
    assert parse_address("oci://ghcr.io/team/adapters/coco:v1").name == "coco"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:80", True),
        ("[::1]:5000", True),
        ("localhost.example.org:5000", False),
        ("10.0.0.1:5000", False),
        ("ghcr.io", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, is_loopback: bool) -> None:
    assert OciAddress(host, "coco", "v1").is_loopback is is_loopback
