"""What came of a version and how it was made, as a terminal shows it: a few lines each, none wrapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mwactl.cli.output import Column, duration, out, size
from mwactl.cli.registry.facts import clipped, line, paragraph, plain, spellable, when, width

_BARS = "▁▂▃▄▅▆▇█"
_EVENTS = 8
_DRAWN = frozenset({"schema", "kind", "parents", "files", "base", "imported"})
"""The manifest's keys that are above: in the header and in the family."""
_TOLD = frozenset({"data", "method", "metrics", "tensors", "train"})


def print_outcome(document: Mapping[str, Any]) -> None:
    """Results, validation, data, method, training, history of the document of `registry show`."""
    manifest = document["manifest"]
    attached = [each for each in document["attachments"] if "problem" not in each]
    _print_results(list(_results(manifest, document["created"], attached)))
    timing: dict[str, Any] = next((each["document"] for each in reversed(attached) if each["kind"] == "training"), {})
    _print_validation(_documents(timing.get("validation")))
    _print_data(_documents(manifest.get("data")))
    _print_method(manifest)
    _print_training(_document(manifest.get("train")), timing)
    more = sorted(manifest.keys() - _DRAWN - _TOLD)
    more += sorted({each["kind"] for each in attached} - {"evaluation", "training"})
    if more:
        paragraph("more", [*more[:-1], f"{more[-1]} (in --json)"], lines=1)
    _print_history([event for event in document["history"] if "problem" not in event], document["reference"])


def event_line(event: Mapping[str, Any]) -> str:
    """One line of the history."""
    verb = " ".join(filter(None, (event["verb"], _document(event["new"]).get("attachment"))))
    return f"history   {when(event['time'])}  {verb}  by {event['user']} on {event['host']}"


# -- results -----------------------------------------------------------------------------------------------------------


def _results(manifest: Mapping[str, Any], created: str, attached: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row each, newest first: the last evaluation of each data set and protocol, then what was published with it."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in (each for each in attached if each["kind"] == "evaluation"):
        data, protocol = _document(each["document"].get("data")), each["document"].get("protocol", "full")
        key = tuple(map(str, (data.get("name"), data.get("split"), data.get("digest"), protocol)))
        newest.pop(key, None)
        name = " ".join(str(part) for part in (data.get("name"), data.get("split")) if part) or "data without a name"
        where = name if protocol == "full" else f"{name} {protocol}"
        newest[key] = {"data": where, "created": each["created"]} | _numbers(each["document"])
    yield from reversed(newest.values())
    for each in _documents(manifest.get("metrics")):
        yield {"data": f"{each.get('dataset')} {each.get('split')}", "created": created} | _numbers(each)


def _numbers(measured: Mapping[str, Any]) -> dict[str, str]:
    def recalls(direction: str) -> str:
        found = _document(measured.get(direction))
        values = [_rounded(found.get(f"R@{k}")) for k in (1, 5, 10)]
        return " ".join(value.rjust(4) for value in values) if any(value != "-" for value in values) else ""

    rsum = _rounded(measured.get("rsum"))
    return {
        "rsum": "" if rsum == "-" else rsum,
        "t2i": recalls("text_to_image"),
        "i2t": recalls("image_to_text"),
        "note": "zero-shot" if measured.get("zero_shot") else "",
    }


def _print_results(rows: list[dict[str, Any]]) -> None:
    columns = [
        Column("data", "RESULTS", format=_name, keep=True),
        Column("rsum", "RSUM", right=True, keep=True),
        Column("t2i", "t2i R@1/5/10"),
        Column("i2t", "i2t R@1/5/10"),
        Column("note", "NOTE"),
        Column("created", "WHEN", format=when),
    ]
    if rows:
        out.table(rows, [each for each in columns if any(row[each.key] for row in rows)])


def _print_validation(epochs: list[dict[str, Any]]) -> None:
    """The curve on one line: bars where the terminal has them, and the numbers at its ends and at its best."""
    known = [(each.get("epoch"), each["rsum"]) for each in epochs if _is_number(each.get("rsum"))]
    if not known:
        return
    values = [value for _, value in known]
    epoch, best = max(known, key=lambda point: point[1])
    first, last = f"validate  RSUM {values[0]:.1f} ", f" {values[-1]:.1f}, best {best:.1f} in epoch {epoch}"
    room = width() - len(first) - len(last)
    line(first + (_bars(values, room) if spellable(_BARS) and room > 1 else "to") + last)


def _bars(values: list[float], room: int) -> str:
    """One bar an epoch; where there are more of them than room, evenly spread ones with the first and the last."""
    if len(values) > room:
        values = [values[round(i * (len(values) - 1) / (room - 1))] for i in range(room)]
    low, high = min(values), max(values)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((value - low) / step)] for value in values)


# -- how it was made ---------------------------------------------------------------------------------------------------


def _print_data(splits: list[dict[str, Any]]) -> None:
    rows = [
        {key: plain(each[key]) if each.get(key) is not None else "" for key in ("images", "captions", "skipped")}
        | {"data": f"{each.get('name')} {each.get('split')}", "digest": _short(each.get("digest"))}
        for each in splits
    ]
    columns = [
        Column("data", "DATA", format=_name, keep=True),
        Column("images", "PICTURES", right=True, keep=True),
        Column("captions", "CAPTIONS", right=True),
        Column("skipped", "SKIPPED", right=True),
        Column("digest", "DIGEST"),
    ]
    if rows:
        out.table(rows, [each for each in columns if any(row[each.key] not in ("", "0") for row in rows)])


def _print_method(manifest: Mapping[str, Any]) -> None:
    method, base, tensors = (_document(manifest.get(fact)) for fact in ("method", "base", "tensors"))
    if method:
        name = plain(method.get("name"))
        settings = [f"{key} {text}" for key, text in _settings(method.get("config")) if (key, text) != ("name", name)]
        paragraph("method", [name, *settings])
    sizes = ((tensors, "in the adapter"), (base, "in the backbone"))
    counts = [f"{plain(each['parameters'])} {where}" for each, where in sizes if "parameters" in each]
    if counts:
        paragraph("size", ["parameters: " + counts[0], *counts[1:]], lines=1)


def _print_training(train: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
    if not train:
        return
    told = {"steps": "steps", "best_epoch": "best epoch", "seed": "seed"}
    facts = [f"{words} {plain(train[key])}" for key, words in told.items() if train.get(key) is not None]
    if isinstance(seconds := timing.get("seconds"), int | float):
        facts.append(f"took {duration(seconds)}")
    if isinstance(peak := timing.get("peak_memory_bytes"), int):
        facts.append(f"{size(peak)} of memory at most")
    paragraph("training", facts or ["nothing is recorded of it"], lines=2)
    recipe = _settings(_document(train.get("recipe")).get("train"))
    paragraph("recipe", [f"{key} {text}" for key, text in recipe if key != "seed"])


def _settings(value: Any) -> Iterator[tuple[str, str]]:
    """The settings in a document under their own names; what is not set is left out."""
    for key, item in _document(value).items():
        if isinstance(item, dict):
            yield from _settings(item)
        elif isinstance(item, bool):
            yield key, "yes" if item else "no"
        elif item is not None:
            yield key, "+".join(map(plain, item)) if isinstance(item, list) else plain(item)


def _print_history(events: list[dict[str, Any]], reference: str) -> None:
    if (earlier := len(events) - _EVENTS) > 0:
        line(f"history   {earlier} earlier: mwactl registry log {reference}")
    for event in events[-_EVENTS:]:
        line(event_line(event))


# -- values of any manifest --------------------------------------------------------------------------------------------


def _name(text: str) -> str:
    """Room is left for the numbers beside it."""
    return clipped(text, max(10, width() - 48))


def _document(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _documents(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: Any) -> str:
    return f"{value:.1f}" if _is_number(value) else "-"


def _short(digest: Any) -> str:
    return f"sha256:{str(digest).removeprefix('sha256:')[:12]}" if digest else ""
