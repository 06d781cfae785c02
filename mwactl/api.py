"""What the command line does, for programs: the same nouns, the same errors.

>>> from mwactl import api
>>> entry = api.train("captions.yaml", ["train.epochs=5"])
>>> api.evaluate(entry.reference, data="my-pictures")["rsum"]

Nothing is printed: pass a `mwactl.progress.Reporter` to follow. torch is imported by what needs it, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mwactl.errors import Interrupted, MwactlError, UsageError
from mwactl.progress import Reporter, Silent
from mwactl.registry import Entry, Registry
from mwactl.search import Encoder

if TYPE_CHECKING:
    from mwactl.config import LoadedRecipe

__all__ = [
    "Encoder",
    "Entry",
    "Interrupted",
    "MwactlError",
    "Registry",
    "Reporter",
    "evaluate",
    "inject",
    "load",
    "train",
]


def load(name: str | None = None, *, device: str = "auto", download: bool = False) -> Encoder:
    """A model by its name: `load("coco-mwa:prod").encode_texts(["two dogs"])` -> [1, e], rows of length one.

    `encode_images` takes files, their bytes, Pillow's pictures and uint8 arrays [h, w, 3].

    Args:
        name: A registry reference (adapter or merged model), or a folder that `mwactl export` wrote; None: the newest.
        device: `auto`, `cpu` or `cuda`.
        download: Whether the network may be used for the backbone's weights.

    Raises:
        MwactlError: There is no such model, it is damaged, or its backbone is not here.
    """
    from mwactl.workflow.encoder import open_encoder

    return open_encoder(name, device=device, download=download)


def inject(
    backbone: str,
    options: Sequence[str] = (),
    *,
    name: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    download: bool = False,
    registry: Registry | None = None,
) -> Entry:
    """Put fresh modules on a backbone and publish the untrained adapter.

    Args:
        backbone: Its name, `clip:MODEL/PRETRAINED`, or `FAMILY:local-dir:FOLDER`.
        options: Of the method, as on the command line: `["method.mwa.layers=last 6"]`.
        name: The adapter's; None: after the backbone and the method.
        weights: A file, a pretrained tag or `random`; None: the backbone's own.
        seed: Of the modules' initial values, and of random weights.
        download: Whether the network may be used for the weights.
        registry: Where it is kept; None: this user's.

    Returns:
        The published version; the same one again where it is there already.

    Raises:
        RecipeError: Options that are none, or do not go together.
        MwactlError: No such backbone or weights, or the backbone cannot host the modules.
    """
    from mwactl.backbone import WeightsRequest
    from mwactl.workflow.inject import default_name, inject_adapter, method_of_options

    method = method_of_options(options)
    request = WeightsRequest(weights, seed, download)
    adapter_name = name or default_name(backbone, method.name)
    injection = inject_adapter(
        registry or Registry.default(), backbone, method, name=adapter_name, weights=request, seed=seed
    )
    assert injection.entry is not None
    return injection.entry


def train(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    restart: bool = False,
    download: bool = False,
    registry: Registry | None = None,
    reporter: Reporter | None = None,
) -> Entry:
    """Train what a recipe says and publish it.

    Args:
        recipe: A file, a packaged recipe's name, or the recipe itself as a mapping.
        overrides: `["train.lr=1e-4"]`, as on the command line.
        resume: Go on from this recipe's checkpoint, where there is one.
        restart: Throw this recipe's checkpoint away.
        download: Whether the network may be used for the backbone's weights.
        registry: Where the result goes; None: this user's.
        reporter: Who is told how it goes.

    Raises:
        RecipeError: The recipe has mistakes; all are listed.
        UsageError: There is a checkpoint, and neither `resume` nor `restart` is given.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is saved.
        MwactlError: Data, weights or memory are not as they must be; nothing is published.
    """
    from mwactl.workflow.train import train_recipe

    loaded = _loaded(recipe, overrides)
    registry = registry or Registry.default()
    return train_recipe(
        registry, loaded, resume=resume, restart=restart, download=download, reporter=reporter,
        resume_command="api.train(…, resume=True)",
    ).entry  # fmt: skip


def evaluate(
    name: str | None = None,
    *,
    data: str,
    split: str = "test",
    backbone: str | None = None,
    weights: str | None = None,
    zero_shot: bool = False,
    protocol: Literal["full", "coco-1k"] = "full",
    batch_size: int = 256,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    on_error: Literal["stop", "skip"] = "stop",
    download: bool = False,
    registry: Registry | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Evaluate retrieval both ways; an adapter's result is kept with its version.

    Args:
        name: A registry reference; None: the bare `backbone`, or without one the newest version.
        data: A data set of the catalogue.
        split: Which split.
        backbone: Evaluated bare where `name` is None; else where that adapter's backbone is now.
        weights: The backbone's, as in `inject`.
        zero_shot: Refuse an adapter that has seen this data.
        protocol: `full`, or the mean of five folds.
        batch_size: Pictures or captions a step.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: Of the towers; ranks are always fp32.
        on_error: A picture that cannot be read: stop or skip it.
        download: Whether the network may be used for the backbone's weights.
        registry: Where the adapter is; None: this user's.
        reporter: Who is told how it goes.

    Returns:
        The document of `mwactl eval --json`.

    Raises:
        UsageError: `zero_shot` is asked for of a bare backbone.
        VerificationError: `zero_shot` is asked for, but the adapter was trained on this data.
        MwactlError: No such model, data or split; pictures that cannot be read; too little memory.
    """
    from mwactl.backbone import WeightsRequest
    from mwactl.workflow.evaluate import EvaluationOptions, evaluate_adapter, evaluate_backbone
    from mwactl.workflow.load import build_backbone
    from mwactl.workflow.splits import checked_split

    if name is None and backbone is not None and zero_shot:
        raise UsageError(
            "zero_shot cannot be checked for a bare backbone",
            why="what a backbone was trained on is unknown",
            fix="zero_shot=False",
        )
    registry, reporter = registry or Registry.default(), reporter or Silent()
    options = EvaluationOptions(protocol=protocol, batch_size=batch_size, device=device, precision=precision)
    checked = checked_split(data, split, on_error=on_error, reporter=reporter)
    if name is None and backbone is not None:
        bare = build_backbone(backbone, WeightsRequest(weights, download=download, reporter=reporter))
        return evaluate_backbone(bare, checked, options, reporter).document
    return evaluate_adapter(
        registry, registry.resolve(name), checked, options, reporter,
        zero_shot=zero_shot, backbone_name=backbone, weights=weights, download=download,
    ).document  # fmt: skip


def _loaded(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> LoadedRecipe:
    from mwactl.config import load_recipe, parse_recipe
    from mwactl.files import canonical_json

    if isinstance(recipe, Mapping):
        return parse_recipe(canonical_json(recipe).decode(), "the recipe", overrides)
    return load_recipe(str(recipe), overrides)
