"""Whatever lies in a registry, and whatever is typed: an answer or an error that helps, never anything else."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mwactl.errors import MwactlError, UsageError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import BrokenEntry, Entry, Registry, parse_reference
from mwactl.registry.folder import NameFolder
from mwactl.registry.gc import apply_gc, plan_gc
from mwactl.registry.labels import labels
from mwactl.registry.manifest import parse_manifest
from mwactl.registry.reference import checked_name
from mwactl.registry.summary import summary
from mwactl.registry.verify import repair, verify

Publish = Callable[..., Entry]


def fuzzed(max_examples: int) -> Any:
    """The same examples every time, and no files of hypothesis's own."""
    allowed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=max_examples, derandomize=True, database=None, deadline=None, suppress_health_check=allowed
    )


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.fixture
def outside(memory_disk: Path) -> Iterator[None]:
    """Nothing beside the registry changes."""
    (memory_disk / "precious").write_text("mine")
    yield
    assert {path.name for path in memory_disk.iterdir()} <= {"precious", "registry"}
    assert (memory_disk / "precious").read_text() == "mine"


@pytest.fixture
def filled(registry: Registry, publish: Publish, outside: None) -> Registry:
    entry = publish()
    publish(data=b"other", parents=(entry.digest,))
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}})
    registry.alias("coco", "prod", 1)
    registry.tag(entry, {"split": "val"})
    registry.remove(publish(data=b"third"))
    return registry


def use_everything(registry: Registry) -> None:
    """Read all there is in every way; each of them gives an answer or a MwactlError."""
    for item in registry.entries():
        with suppress(MwactlError):
            summary(registry, item, labels(NameFolder(registry.root, item.name)))
        if isinstance(item, BrokenEntry):
            continue
        for file in item.manifest["files"]:
            with suppress(MwactlError):
                registry.read(item, file["path"])
        json.dumps([registry.attachments(item), registry.lineage(item)], allow_nan=False, ensure_ascii=False).encode()
    for name in registry.names():
        registry.history(name)
        for reader in (registry.aliases, registry.tags):
            with suppress(MwactlError):
                reader(name)
    for reference in (None, "coco", "coco@1", "coco:prod", "coco@sha256:00000000"):
        with suppress(MwactlError):
            registry.resolve(reference)
    registry.references()
    with suppress(MwactlError):
        verify(registry)
    with suppress(MwactlError):
        plan_gc(registry, 0.0)


# -- what is typed -------------------------------------------------------------------------------------------------

typed = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="aZ9@:./\\~-_ \0sha256", max_size=40),
    st.from_regex(r"[a-zA-Z0-9./~]{0,12}[@:](sha256:)?[0-9a-fA-F]{0,70}", fullmatch=True),
)


@fuzzed(400)
@given(typed)
@example("coco@00000000001")
@example("coco@sha256:" + "A" * 8)
@example("\u212aelvin")
@example("con.tar")
def test_a_reference_is_parsed_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError as error:
        assert error.why
        return
    if reference.folder is None:
        assert parse_reference(str(reference)) == reference
        assert checked_name(reference.name) == reference.name
        assert Path("refs", reference.name).name == reference.name, "a name is one directory"


@fuzzed(150)
@given(typed)
@example("~nobody-of-this-name/x")
@example("./\0")
@example("/" + "a" * 300)
def test_resolving_anything_gives_an_entry_or_an_error(filled: Registry, text: str) -> None:
    with suppress(MwactlError):
        assert isinstance(filled.resolve(text), Entry)


@fuzzed(60)
@given(st.text(max_size=40), st.text(max_size=40))
@example("coco", "../../precious")
@example("../precious", "prod")
def test_names_and_aliases_never_lead_out_of_the_registry(filled: Registry, name: str, alias: str) -> None:
    with suppress(MwactlError):
        filled.alias(name, alias, 1)
    with suppress(MwactlError):
        filled.publish(name, kind="adapter", files={alias: b"x"}, facts={}, verb="train")


# -- what lies in a manifest ---------------------------------------------------------------------------------------

strange = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["..", "/etc/passwd", "0" * 64, "adapter.pt", "a/../b", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
keys = ["schema", "kind", "parents", "files", "base", "method", "metrics", "train", "data"]
file_records = st.fixed_dictionaries(
    {"path": strange, "size": strange, "sha256": strange | st.just("0" * 64)}, optional={"media_type": strange}
)
manifests = st.one_of(
    st.dictionaries(st.sampled_from(keys), strange, max_size=9),
    st.fixed_dictionaries(
        {
            "schema": st.just(1),
            "kind": st.just("adapter") | strange,
            "parents": st.just([]) | st.lists(st.just("0" * 64) | strange, max_size=2),
            "files": st.just([]) | st.lists(file_records, max_size=2) | strange,
        },
        optional={"base": strange, "method": strange, "metrics": strange, "data": strange, "train": strange},
    ),
).map(canonical_json)
deep = b"[" * 100_000


@fuzzed(300)
@given(manifests | st.binary(max_size=60))
@example(deep)
@example(b'{"schema":1,"kind":"a","parents":[],"files":[],"deep":' + deep)
@example(b'{"schema":' + b"9" * 5000 + b"}")
@example(b'{"schema":1e999,"kind":"a","parents":[],"files":[]}')
@example(b'{"schema":1,"schema":2}')
@example(b'{"schema":true,"kind":"a","parents":[],"files":[]}')
@example(b'{"schema":1,"kind":"\\ud800","parents":[],"files":[]}')
def test_manifest_bytes_are_a_manifest_or_an_error(data: bytes) -> None:
    try:
        manifest = parse_manifest(data, where="it")
    except MwactlError:
        return
    assert (manifest["schema"], type(manifest["kind"])) == (1, str)
    for file in manifest["files"]:
        assert not Path(file["path"]).is_absolute()
        assert ".." not in Path(file["path"]).parts


@fuzzed(60)
@given(manifests | st.binary(max_size=60))
@example(deep)
@example(b'{"schema":1,"kind":"a","parents":[],"files":[],"metrics":[{"values":{"text_to_image":{"R@1":1e999}}}]}')
def test_a_published_manifest_of_any_content_is_listed_verified_and_kept(filled: Registry, data: bytes) -> None:
    digest, _ = filled._blobs.put(data)
    pointer = filled.root / "refs/strange/versions/1"
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text(f"{digest}\n")
    use_everything(filled)
    assert not plan_gc(filled, 0.0).blobs or digest not in {file.path.name for file in plan_gc(filled, 0.0).blobs}


@fuzzed(60)
@given(strange.map(canonical_json) | st.binary(max_size=40), st.booleans())
@example(deep, False)
@example(b"", False)
def test_an_attachment_of_any_content_is_survived(filled: Registry, data: bytes, is_document: bool) -> None:
    entry = filled.resolve("coco@1")
    if is_document:
        about = f',"kind":"evaluation","schema":1,"subject":"{entry.digest}"}}'
        data = b'{"document":' + data + about.encode()
    digest, _ = filled._blobs.put(data)
    pointer = small_file(filled, "ATTACHED")
    pointer.chmod(0o644)
    pointer.write_text(f"{digest}\n")
    use_everything(filled)


# -- what lies in the small files ----------------------------------------------------------------------------------

SMALL = ("layout.json", "refs/coco/versions/1", "refs/coco/versions/3.removed", "refs/coco/aliases/prod",
         "refs/coco/tags.json", "refs/coco/log.jsonl", "ATTACHED")  # fmt: skip
digests = st.just("0" * 64) | st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)


def checked_line(record: Any) -> bytes:
    """A line of a history with the right checksum, whatever is in it."""
    if not isinstance(record, dict):
        return json.dumps(record).encode()
    record.pop("check", None)
    return canonical_json(record | {"check": sha256_bytes(canonical_json(record))[:16]})


contents = st.one_of(
    st.binary(max_size=90),
    strange.map(lambda value: json.dumps(value).encode()),
    digests.map(lambda digest: f"{digest}\n".encode()),
    st.tuples(st.integers(0, 12), digests).map(lambda pair: f"{pair[0]} {pair[1]}\n".encode()),
    st.fixed_dictionaries(
        {"time": strange, "verb": st.sampled_from(["tag", "alias", "train", "attach"]) | strange},
        optional={"old": strange, "new": strange | st.fixed_dictionaries({"version": strange, "digest": strange}),
                  "user": strange, "host": strange},
    ).map(checked_line),
)  # fmt: skip


FORGED = b"\n".join(
    checked_line({"verb": verb, "new": new})
    for verb in ("train", "alias", "tag", "attach", 7)
    for version in ([], {}, -1, True, "1", 10**30, None)
    for new in (
        {"version": version, "digest": "0" * 64},
        {"version": version, "alias": version, "digest": version, "tags": version},
        {"version": 1, "attachment": version, "digest": version, "attached": "0" * 64},
        version,
    )
)
"""Lines with the right checksum that no program wrote."""


def small_file(registry: Registry, file: str) -> Path:
    if file != "ATTACHED":
        return registry.root / file
    return next(registry.root.glob("refs/coco/attached/*/evaluation/1"))


@pytest.mark.parametrize("file", SMALL)
def test_any_content_of_a_small_file_is_survived(filled: Registry, file: str) -> None:
    path = small_file(filled, file)
    good = path.read_bytes()
    path.chmod(0o644)

    @fuzzed(120)
    @given(contents)
    @example(deep)
    @example(b"")
    @example(good + good)
    @example(good[:-1])
    @example(FORGED)
    def survive(content: bytes) -> None:
        path.write_bytes(content)
        use_everything(filled)

    survive()
    path.write_bytes(good)
    assert verify(filled).faults == []


@fuzzed(25)
@example([("refs/coco/log.jsonl", FORGED), ("refs/coco/tags.json", b""), ("refs/coco/aliases/prod", b"")])
@given(st.lists(st.tuples(st.sampled_from(SMALL[1:]), contents), max_size=3))
def test_repair_and_gc_survive_anything_and_lose_no_intact_version(
    memory_disk: Path, damage: list[tuple[str, bytes]]
) -> None:
    with tempfile.TemporaryDirectory(dir=memory_disk) as directory:
        registry = Registry(Path(directory) / "registry")
        entries = [
            registry.publish("coco", kind="adapter", files={"a": data}, facts={}, verb="train")
            for data in (b"one", b"two", b"three")
        ]
        registry.attach(entries[0], "evaluation", {"rsum": 1})
        registry.alias("coco", "prod", 1)
        registry.tag(entries[0], {"split": "val"})
        registry.remove(entries[2])
        for file, content in damage:
            path = small_file(registry, file)
            path.chmod(0o644)
            path.write_bytes(content)
        repair(registry, verify(registry))
        with suppress(MwactlError):
            apply_gc(registry, plan_gc(registry, 0.0))
        second = registry.resolve("coco@2")
        assert (second.digest, registry.read(second, "a")) == (entries[1].digest, b"two")
