from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from mwactl.errors import VerificationError
from mwactl.registry import Entry, Registry
from mwactl.registry.diff import EntryDiff, Metric, diff

Put = Callable[..., Entry]
RECIPE = {"name": "coco", "train": {"lr": 0.001, "epochs": 20}, "data": {"val_split": None}}


def facts(**changes: Any) -> dict[str, Any]:
    train = {"recipe": RECIPE, "seed": 0, "steps": 10, "versions": {"torch": "2.6"}}
    data = [{"name": "coco", "split": split, "images": 5, "digest": split[0] * 64} for split in ("train", "val")]
    return {"train": train, "data": data, "metrics": []} | changes


def sections(found: EntryDiff) -> dict[str, dict[str, tuple[Any, Any]]]:
    by_section: dict[str, dict[str, tuple[Any, Any]]] = {}
    for each in found.differences:
        by_section.setdefault(each.section, {})[each.key] = (each.a, each.b)
    return by_section


def tensors(**arrays: Any) -> bytes:
    named = {name.replace("__", "/").replace("_", "."): np.asarray(value, np.float32) for name, value in arrays.items()}
    return bytes(save(named))


@pytest.fixture
def put(registry: Registry) -> Put:
    """put(bytes of tensors, name=…, **facts)."""

    def put_one(content: bytes = tensors(a=[1.0]), *, name: str = "coco", **given: Any) -> Entry:
        known = {"method": {"name": "mwa"}, "base": {"backbone": "tiny"}} | given
        return registry.publish(name, kind="adapter", files={"adapter.safetensors": content}, facts=known, verb="x")

    return put_one


def test_the_same_contents_have_no_difference(registry: Registry, put: Put) -> None:
    first, second = put(name="one", **facts()), put(name="two", **facts())
    found = diff(registry, first, second)
    assert found.same
    assert (found.differences, found.tensors) == ([], [])
    assert [file.same for file in found.files] == [True]
    assert found.a == {"reference": "one@1", "digest": first.digest}


def test_recipe_keys_have_dotted_paths_and_both_values(registry: Registry, put: Put) -> None:
    other = RECIPE | {"train": {"lr": 0.01, "epochs": 20, "warmup": 0.1}}
    train = {"recipe": other, "seed": 1, "steps": 10, "versions": {"torch": "2.7"}}
    found = diff(registry, put(**facts()), put(**facts(train=train)))
    assert not found.same
    assert sections(found) == {
        "recipe": {"train.lr": (0.001, 0.01), "train.warmup": (None, 0.1)},
        "seed": {"seed": (0, 1)},
        "versions": {"torch": ("2.6", "2.7")},
    }
    assert {each.key: each.only for each in found.differences}["train.warmup"] == "b"
    assert [each.section for each in found.differences] == ["recipe", "recipe", "seed", "versions"]


def test_a_value_of_none_differs_from_no_value(registry: Registry, put: Put) -> None:
    train = {"recipe": RECIPE | {"data": {}}, "seed": 0, "steps": 10, "versions": {"torch": "2.6"}}
    (each,) = [d for d in diff(registry, put(**facts()), put(**facts(train=train))).differences if "val" in d.key]
    assert (each.a, each.b, each.only) == (None, None, "a")


def test_method_base_and_data_are_compared_whatever_the_order_of_the_data(registry: Registry, put: Put) -> None:
    train, val = facts()["data"]
    first = put(**facts(method={"name": "mwa", "config": {"mwa": {"layers": "all"}}}))
    second = put(
        **facts(
            method={"name": "mwa", "config": {"mwa": {"layers": "last 2"}}},
            base={"backbone": "small"},
            data=[val, train | {"images": 6, "digest": "x" * 64}],
        )
    )
    assert sections(diff(registry, first, second)) == {
        "method": {"config.mwa.layers": ("all", "last 2")},
        "base": {"backbone": ("tiny", "small")},
        "data": {"coco train.digest": ("t" * 64, "x" * 64), "coco train.images": (5, 6)},
    }


def test_what_a_plugin_put_into_a_manifest_is_compared_too(registry: Registry, put: Put) -> None:
    found = diff(registry, put(extra={"deep": [{"name": "x", "v": 1}]}), put(extra={"deep": [{"name": "x", "v": 2}]}))
    assert sections(found) == {"extra": {"deep.x.v": (1, 2)}}


def evaluation(recall: float, digest: str = "d" * 64, **more: Any) -> dict[str, Any]:
    data = {"name": "coco", "split": "test", "digest": digest}
    return {
        "data": data,
        "protocol": "full",
        "text_to_image": {"R@1": recall, "R@10": recall + 1, "R@5": recall},
    } | more


def test_results_stand_side_by_side_with_their_difference(registry: Registry, put: Put) -> None:
    first, second = put(**facts()), put(tensors(other=[1.0]), **facts())
    registry.attach(first, "evaluation", evaluation(1.0))
    registry.attach(first, "evaluation", evaluation(60.0))
    registry.attach(second, "evaluation", evaluation(62.5, rsum=500.0, zero_shot=True))
    assert diff(registry, first, second).metrics == [
        Metric("coco test", "d" * 64, "rsum", None, 500.0, None),
        Metric("coco test", "d" * 64, "text_to_image.R@1", 60.0, 62.5, 2.5),
        Metric("coco test", "d" * 64, "text_to_image.R@5", 60.0, 62.5, 2.5),
        Metric("coco test", "d" * 64, "text_to_image.R@10", 61.0, 63.5, 2.5),
    ]


def test_results_on_other_data_of_the_same_name_or_protocol_are_not_compared(registry: Registry, put: Put) -> None:
    first, second = put(), put(tensors(other=[1.0]))
    registry.attach(first, "evaluation", evaluation(60.0))
    registry.attach(second, "evaluation", evaluation(62.0, digest="e" * 64))
    registry.attach(second, "evaluation", evaluation(64.0, protocol="coco-1k"))
    metrics = diff(registry, first, second).metrics
    assert {metric.difference for metric in metrics} == {None}
    assert {(metric.data, metric.digest) for metric in metrics} == {
        ("coco test", "d" * 64), ("coco test", "e" * 64), ("coco test coco-1k", "d" * 64),
    }  # fmt: skip


def test_the_metrics_at_publication_count_with_the_digest_of_their_split(registry: Registry, put: Put) -> None:
    first, second = (
        put(**facts(metrics=[{"dataset": "coco", "split": "val", "rsum": r, "best": True}])) for r in (400.0, 390.0)
    )
    assert diff(registry, first, second).metrics == [Metric("coco val", "v" * 64, "rsum", 400.0, 390.0, -10.0)]


def test_files_are_compared_by_digest(registry: Registry) -> None:
    contents = ({"same": b"1", "a-only": b"2", "both": b"3"}, {"same": b"1", "both": b"44"})
    first, second = (registry.publish("coco", kind="adapter", files=each, facts={}, verb="x") for each in contents)
    found = {file.path: (file.same, file.a_bytes, file.b_bytes) for file in diff(registry, first, second).files}
    assert found == {"a-only": (False, 1, None), "both": (False, 1, 2), "same": (True, 1, 1)}


def test_distances_are_those_of_the_definition(registry: Registry, put: Put) -> None:
    a = {"adapter.sites.image/3.up": [3.0, 0.0], "adapter.sites.image/3.down": [[4.0]], "backbone.head": [1.0, 1.0]}
    b = {"adapter.sites.image/3.up": [0.0, 3.0], "adapter.sites.image/3.down": [[4.0]], "backbone.head": [2.0, 2.0]}
    first, second = (
        put(bytes(save({name: np.asarray(value, np.float32) for name, value in each.items()}))) for each in (a, b)
    )
    head, site = sorted(diff(registry, first, second).tensors, key=lambda each: each.tensors)
    assert (site.site, site.tensors, site.problems) == ("image/3", 2, [])
    assert site.relative_l2 == pytest.approx(np.sqrt(18) / 5)
    assert site.cosine == pytest.approx(16 / 25)
    assert (head.site, head.relative_l2, head.cosine) == ("backbone.head", pytest.approx(1.0), pytest.approx(1.0))


def test_zero_tensors_give_no_ratio_that_does_not_exist(registry: Registry, put: Put) -> None:
    first = put(tensors(zero=[0.0], both=[0.0], gone=[2.0]))
    second = put(tensors(zero=[1.0], both=[0.0], gone=[0.0]))
    found = {each.site: (each.relative_l2, each.cosine) for each in diff(registry, first, second).tensors}
    assert found == {"zero": (None, None), "both": (0.0, None), "gone": (1.0, None)}


def test_tensors_that_only_one_has_or_of_another_shape_are_said(registry: Registry, put: Put) -> None:
    first = put(tensors(x=[1.0], y=[[1.0, 2.0]]))
    second = put(tensors(y=[[1.0], [2.0]], z=[1.0]))
    found = diff(registry, first, second).tensors
    assert [problem for each in found for problem in each.problems] == [
        "x is only in A", "y is [1, 2] in A, [2, 1] in B", "z is only in B",
    ]  # fmt: skip
    assert {(each.tensors, each.relative_l2, each.cosine) for each in found} == {(0, None, None)}


def test_sites_are_in_the_order_of_their_depth(registry: Registry, put: Put) -> None:
    names = [f"adapter.sites.image/{depth}.up" for depth in range(12)]
    first, second = (put(bytes(save({n: np.full(1, v, np.float32) for n in names}))) for v in (1.0, 2.0))
    assert [each.site for each in diff(registry, first, second).tensors] == [f"image/{depth}" for depth in range(12)]


def test_bfloat16_and_half_precision_are_compared(registry: Registry, put: Put) -> None:
    import safetensors.torch
    import torch

    entries = [
        put(safetensors.torch.save({"a": torch.tensor([v, 1.0], dtype=dtype)}))
        for v, dtype in ((2.0, torch.bfloat16), (4.0, torch.float16))
    ]
    (distance,) = diff(registry, *entries).tensors
    assert distance.relative_l2 == pytest.approx(2 / np.sqrt(5))


def test_bytes_that_are_no_safetensors_are_an_error_and_rot_is_found(registry: Registry, put: Put) -> None:
    good, bad = put(tensors(a=[1.0])), put(b"no tensors")
    with pytest.raises(VerificationError, match=r"adapter\.safetensors of coco@2 is no safetensors file") as error:
        diff(registry, good, bad)
    assert (error.value.fix or "").startswith("mwactl registry show coco@2 --json")
    other = put(tensors(a=[2.0]))
    digest = other.manifest["files"][0]["sha256"]
    path = registry.root / "blobs/sha256" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(tensors(a=[3.0]))
    with pytest.raises(VerificationError, match="corrupt"):
        diff(registry, good, other)


def test_a_diff_is_json(registry: Registry, put: Put) -> None:
    found = diff(registry, put(tensors(a=[0.0])), put(tensors(a=[1.0])))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["tensors"][0]["relative_l2"] is None


def test_tensors_of_a_type_that_numpy_lacks_are_an_error_with_a_next_step(registry: Registry, put: Put) -> None:
    import safetensors.torch
    import torch

    eighth = put(safetensors.torch.save({"a": torch.ones(2, dtype=torch.float8_e4m3fn)}))
    with pytest.raises(VerificationError, match="of a type that cannot be compared") as error:
        diff(registry, eighth, put(tensors(a=[1.0, 1.0])))
    assert (error.value.fix or "").startswith("mwactl registry show coco@1 --json")
