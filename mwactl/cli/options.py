"""Options that many commands share: each is declared once, here."""

from __future__ import annotations

from typing import Annotated

import typer

from mwactl.cli.completion import complete_backbone, complete_data, complete_override, complete_reference
from mwactl.cli.output import Mode, out
from mwactl.errors import UsageError


def _set_json(value: bool) -> bool:
    if value:
        out.mode = Mode.JSON
    return value


def _set_quiet(value: bool) -> bool:
    if value:
        out.mode = Mode.QUIET
    return value


def _set_debug(value: bool) -> bool:
    if value:
        out.debug = True
    return value


def _check_on_error(value: str) -> str:
    if value not in ("stop", "skip"):
        raise UsageError(f"--on-error {value}: unknown", fix="--on-error stop, or --on-error skip")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", callback=_set_json)]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print only the identifier; no progress.", callback=_set_quiet)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", envvar="MWACTL_DEBUG", callback=_set_debug)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SomeReference = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="An adapter: coco-mwa, coco-mwa@3, coco-mwa:prod.", autocompletion=complete_reference
    ),
]
SomeReferences = Annotated[
    list[str],
    typer.Argument(
        metavar="REF…", help="Adapters: coco-mwa, coco-mwa@3, coco-mwa:prod.", autocompletion=complete_reference
    ),
]
DataName = Annotated[
    str, typer.Argument(metavar="NAME", help="What recipes call the data set.", autocompletion=complete_data)
]
Data = Annotated[
    str | None, typer.Option("--data", help="A data set (mwactl data list).", autocompletion=complete_data)
]
ZeroShot = Annotated[
    str | None,
    typer.Option(
        "--zero-shot",
        metavar="DATA",
        help="A data set that must never have been seen in training: this is checked.",
        autocompletion=complete_data,
    ),
]
Split = Annotated[str, typer.Option("--split", help="Which split.")]
Protocol = Annotated[str, typer.Option("--protocol", help="full, or coco-1k (mean of five folds).")]
OnError = Annotated[
    str,
    typer.Option("--on-error", help="A picture that cannot be read: stop or skip.", callback=_check_on_error),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything up to the first write; print the plan.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[OPTION=VALUE]…",
        help="Recipe options, such as train.epochs=5 (mwactl help config).",
        autocompletion=complete_override,
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="A backbone: mwactl backbones list, clip:MODEL/TAG, FAMILY:local-dir:FOLDER.",
        autocompletion=complete_backbone,
    ),
]
BackboneNow = Annotated[str | None, typer.Option("--backbone", help="Where the model's backbone folder is now.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N.")]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="A weights file, a pretrained tag, or `random` (default: the backbone's)."),
]
Download = Annotated[bool, typer.Option("--download", help="Allow the network, for the backbone's weights.")]
