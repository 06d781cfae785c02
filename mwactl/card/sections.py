"""The parts of a card that depend on the entry, each as Markdown; what is not known is said to be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mwactl.card.subject import RECALLS, Evaluation, Subject, without_folder
from mwactl.chart import bars

_METHODS = {
    "mwa": "a [MultiWay-Adapter](https://arxiv.org/abs/2309.01516)",
    "lora": "a [LoRA](https://arxiv.org/abs/2106.09685) adapter",
    "bitfit": "a set of retrained biases ([BitFit](https://arxiv.org/abs/2106.10199))",
    "head": "retrained projections to the shared space (`head`)",
    "full": "a full fine-tuning (`full`)",
}
_ROWS_OF_A_CURVE = 12


def summary(subject: Subject) -> str:
    """What it is, in a sentence or two."""
    method = subject.method.get("name")
    what = _METHODS.get(str(method), f"an adapter (method `{method}`)" if method else "an entry without a method")
    text = (
        f"This is {what} for image-text retrieval on a frozen `{subject.backbone or 'backbone that is not recorded'}`."
    )
    if method == "full":
        text = text.replace("on a frozen", "of")
    if subject.merged:
        text = text.replace("This is", f"This is `{subject.backbone}` with").partition(" for image-text")[0]
        text += " in its weights: one model for image-text retrieval, which needs no weights besides."
    if weights := subject.combined.get("weights"):
        text += f" It is the sum of {len(weights)} adapters" if len(weights) > 1 else " It is another adapter"
        text += f" with the weights {' and '.join(map(str, weights))}" if len(weights) > 1 else ""
        text += "." if subject.combined.get("scale") is None else f" at strength {subject.combined['scale']}."
    if not subject.trained:
        text += " **It is not trained.**"
    return text


def results(subject: Subject) -> str:
    """A table of all evaluations, and what their numbers mean."""
    if not subject.evaluations:
        return "No evaluation is kept with this version, so nothing is known of how well it retrieves."
    heads = ["data", "pictures × captions", "protocol", *(f"t2i {k}" for k in RECALLS), *(f"i2t {k}" for k in RECALLS)]
    rows = [
        [
            _data_name(each),
            f"{_count(each.images)} × {_count(each.texts)}",
            each.protocol,
            *(_metric(each, "text_to_image", k) for k in RECALLS),
            *(_metric(each, "image_to_text", k) for k in RECALLS),
            _metric(each, "rsum"),
        ]
        for each in subject.evaluations
    ]
    lines = [_table([*heads, "RSUM"], rows, right=range(3, 10)), "", _MEANING]
    if levels := sorted({each.intervals["level"] for each in subject.evaluations if "level" in each.intervals}):
        lines.append(f"In brackets: intervals at level {', '.join(f'{level:g}' for level in levels)}.")
    if any(each.zero_shot for each in subject.evaluations):
        lines.append("Zero-shot was checked: neither the data's name nor any of its pictures is in the lineage's data.")
    if any(each.seen for each in subject.evaluations):
        lines.append("A split marked † was trained on or chose the epoch: it says nothing about new pictures.")
    return "\n".join(lines)


_MEANING = """\
t2i: from a caption to its picture; i2t: from a picture to any of its captions. R@k in percent; RSUM is the sum of the
six. Ties count against the model."""


def model(subject: Subject) -> str:
    """Method, sizes and backbone."""
    base, tensors = subject.base, subject.tensors
    facts = {
        "method": subject.method.get("name"),
        "backbone": subject.backbone,
        "backbone's repository": subject.base_model,
        "backbone's fingerprint": _code(base.get("fingerprint")),
        "backbone's weights": _weights(base.get("weights")),
        "backbone's parameters": _count(base.get("parameters")),
        "adapter's parameters": _share(tensors.get("parameters"), base.get("parameters")),
        "adapter's tensors": _code(tensors.get("digest")),
    }
    if subject.merged:
        del facts["adapter's parameters"], facts["adapter's tensors"]
        equality = subject.merged.get("equality", {})
        facts |= {
            "parameters in all": _count(tensors.get("parameters")),
            "tensors": _code(tensors.get("digest")),
            "difference from backbone and adapter": f"at most {equality['max_abs']:.1e} a component, on "
            f"{equality['pictures']} pictures and {equality['captions']} captions"
            if {"max_abs", "pictures", "captions"} <= equality.keys()
            else None,
        }
    config = subject.method.get("config")
    options = _options(config.get("mwa", {})) if isinstance(config, dict) and facts["method"] == "mwa" else ""
    return _facts_table(facts) + options


def data(subject: Subject) -> str:
    """Which data it was trained on and which chose the epoch."""
    if subject.imported:
        origin = f"It was imported from `{subject.imported.get('file')}` ({_code(subject.imported.get('sha256'))})."
        return f"{origin} What that was trained on is not known."
    if not subject.data:
        return "None: it is not trained." if not subject.trained else "The training data is not recorded."
    heads = ["data set", "split", "pictures", "captions", "skipped", "digest"]
    rows = [
        [
            str(used.get("name")),
            str(used.get("split")),
            *(_count(used.get(key)) for key in ("images", "captions", "skipped")),
            _code(used.get("digest")) or "not recorded",
        ]
        for used in subject.data
    ]
    return (
        _table(heads, rows, right=range(2, 5))
        + "\n\nThe names are those of the catalogue of whoever trained it; the digests identify the data."
    )


_NOT_OURS = "It was not trained by mwactl."


def training(subject: Subject) -> str:
    """Steps, time, memory and versions."""
    train, timing = subject.train, subject.timing
    if not train:
        made = subject.merged or subject.combined
        return "It was made from what was trained; see the cards of its parents." if made else _NOT_OURS
    seconds, step, memory = (timing.get(key) for key in ("seconds", "seconds_per_step", "peak_memory_bytes"))
    versions = train.get("versions")
    return _facts_table(
        {
            "steps": _count(train.get("steps")),
            "seed": train.get("seed"),
            "best epoch": train.get("best_epoch"),
            "time": None if seconds is None else f"{seconds:,.0f} s",
            "a step": None if step is None else f"{step:.3f} s (median)",
            "peak memory": None if memory is None else f"{memory / 1e9:.2f} GB",
            "versions": ", ".join(f"{name} {v}" for name, v in versions.items())
            if isinstance(versions, dict)
            else None,
        }
    )


def curve(subject: Subject) -> str:
    """Validation by epoch: a line of bars and a small table."""
    if not subject.train:
        return ""
    if not subject.curve:
        best = [
            each for each in subject.entry.manifest.get("metrics") or [] if isinstance(each, dict) and "rsum" in each
        ]
        known = "".join(
            f" The best epoch's RSUM on {each.get('dataset')} {each.get('split')} was {each['rsum']:.1f}."
            for each in best
        )
        return f"Validation by epoch was not kept with this version.{known}"
    values = [float(each["rsum"]) for each in subject.curve]
    chosen = _spread(subject.curve, subject.train.get("best_epoch"))
    heads = ["epoch", "RSUM"]
    rows = [[f"{each['epoch']}", f"{each['rsum']:.1f}"] for each in chosen]
    low, high = min(values), max(values)
    line = f"Validation RSUM by epoch: `{bars(values)}` ({low:.1f} to {high:.1f})"
    return f"{line}\n\n{_table(heads, rows, right=range(2))}"


def recipe(subject: Subject) -> str:
    """The recipe as YAML, without the places of files on the machine where it ran."""
    found = subject.train.get("recipe")
    if not isinstance(found, dict):
        return "No recipe is recorded."
    import yaml

    text = yaml.safe_dump(_portable(found), sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"


def limits(subject: Subject) -> str:
    """What nobody should conclude from this card."""
    tests = [each for each in subject.evaluations if not each.seen]
    lines = [
        "It is for retrieval alone: it cannot be trained further, nor the adapter taken out of it."
        if subject.merged
        else "It works on the very backbone whose fingerprint is above, and is refused on any other.",
        "It was measured at retrieval alone; nothing is known of classification, generation or fairness.",
    ]
    if subject.train:
        lines.append("It is one run with one seed: small differences from another run mean nothing.")
    if subject.imported:
        lines.append("Its training data is not known, so no evaluation of it can be called zero-shot.")
    if tests and not any(each.zero_shot for each in tests):
        lines.append("No evaluation was checked to be zero-shot, so nothing is known of data of another kind.")
    if tests and not any(each.intervals for each in tests):
        lines.append("The results have no intervals.")
    if not tests:
        lines.append("It was not evaluated on data that training did not use.")
    if skipped := sum(used.get("skipped") or 0 for used in subject.data):
        lines.append(f"{skipped:,} pictures could not be read and were skipped.")
    if subject.missing_ancestors:
        lines.append("Part of its lineage is not in the registry that made this card.")
    return "\n".join(f"* {line}" for line in lines)


def licence(subject: Subject) -> str:
    """Of the adapter; the backbone and the data have their own."""
    if not subject.licence:
        return "Not stated. The backbone and the training data have licences of their own."
    link = f" ({subject.licence_link})" if subject.licence_link else ""
    return f"{subject.licence}{link}. The backbone and the training data have licences of their own."


def files(subject: Subject) -> str:
    """Paths, sizes and digests."""
    rows = [
        [f"`{file['path']}`", _count(file["size"]), f"`{file['sha256']}`"] for file in subject.entry.manifest["files"]
    ]
    return _table(["file", "bytes", "sha256"], rows, right=(1,))


# -- how things are spelt ----------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """A Markdown table; the columns of these numbers are aligned to the right."""
    rule = ["---:" if number in right else "---" for number in range(len(heads))]
    lines = [heads, rule, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _facts_table(facts: dict[str, Any]) -> str:
    return _table(["", ""], [[name, str(value)] for name, value in facts.items() if value is not None])


def _data_name(evaluation: Evaluation) -> str:
    mark = " †" if evaluation.seen else " (zero-shot)" if evaluation.zero_shot else ""
    return f"{evaluation.data} {evaluation.split}{mark}"


def _metric(evaluation: Evaluation, *path: str) -> str:
    value: Any = evaluation.rsum if path == ("rsum",) else getattr(evaluation, path[0]).get(path[1])
    if value is None:
        return "-"
    interval = evaluation.interval(*path)
    return f"{value:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else "not recorded"


def _share(trained: Any, whole: Any) -> str:
    if isinstance(trained, int) and isinstance(whole, int) and whole:
        return f"{trained:,} ({100 * trained / whole:.2g} % of the backbone's)"
    return _count(trained)


def _code(digest: Any) -> str | None:
    return None if not digest else f"`{digest}`"


def _weights(weights: Any) -> str | None:
    if not isinstance(weights, dict) or not weights.get("source"):
        return None
    seed = "" if weights.get("seed") is None else f", seed {weights['seed']}"
    digest = f", sha256 `{weights['file_sha256']}`" if weights.get("file_sha256") else ""
    return f"{without_folder(str(weights['source']))}{seed}{digest}"


def _options(mwa: dict[str, Any]) -> str:
    shown = ", ".join(f"`{name}` {_option(value)}" for name, value in sorted(mwa.items()))
    return f"\n\nOptions: {shown}." if shown else ""


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return without_folder(value) if isinstance(value, str) else value


def _spread(epochs: list[dict[str, Any]], best: Any) -> list[dict[str, Any]]:
    """All of a short curve; of a long one evenly spread epochs, with the best and the last."""
    every = -(-len(epochs) // _ROWS_OF_A_CURVE)
    last = len(epochs) - 1
    return [each for i, each in enumerate(epochs) if i % every == 0 or i == last or each["epoch"] == best]
