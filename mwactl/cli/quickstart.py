"""`mwactl quickstart`: one adapter's whole life on bundled pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, duration, out

if TYPE_CHECKING:
    from mwactl.workflow.quickstart import Quickstart


def quickstart(
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Where the contact sheet goes (default: below MWACTL_HOME).")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Adapt a tiny bundled CLIP to another drawing style: evaluate, inject, train, evaluate, keep, look.

    No network and no GPU: about a minute on two cores. The result is an ordinary adapter in your registry.
    """
    from mwactl.registry import Registry
    from mwactl.workflow.quickstart import quickstart as run

    began = time.monotonic()
    done = run(Registry.default(reporter=out), sheet=sheet, reporter=out)
    took = duration(time.monotonic() - began)
    document = {
        "schema": 1,
        "adapter": done.entry.reference,
        "trainable_parameters": done.entry.manifest["tensors"]["parameters"],
        "before": done.before,
        "after": done.after,
        "sheet": str(done.sheet),
    }
    out.answer(document, human=lambda: _describe(done, took), identifier=done.entry.reference)
    out.hint("your own pictures, in three commands:")
    out.hint("  mwactl data add my-pictures --format csv --annotations captions.csv --images FOLDER")
    out.hint("  mwactl train captions.yaml --download   (to change it: mwactl recipes copy captions)")
    out.hint("  mwactl eval --data my-pictures")


def _describe(done: Quickstart, took: str) -> None:
    base = done.entry.manifest["base"]
    trained = done.entry.manifest["tensors"]["parameters"]
    share = 100 * trained / base["parameters"]
    out.text(f"{base['backbone']} + MWA: {trained:,} trained parameters ({share:.1f} %), {took} in all")
    rows = [
        _row("text→image", "before", done.before["text_to_image"]),
        _row("text→image", "after", done.after["text_to_image"]),
        _row("image→text", "before", done.before["image_to_text"]),
        _row("image→text", "after", done.after["image_to_text"]),
    ]
    percent = [Column(f"R@{k}", f"R@{k}", right=True, format="{:.1f}".format, keep=True) for k in (1, 5, 10)]
    out.table(rows, [Column("direction", "", keep=True), Column("when", "", keep=True), *percent])
    out.text(f"RSUM {done.before['rsum']:.1f} → {done.after['rsum']:.1f} on {done.after['images']} unseen drawings")
    out.text(f"adapter        {done.entry.reference}   (mwactl registry show {done.entry.reference})")
    out.text(f"contact sheet  {done.sheet}")


def _row(direction: str, when: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"direction": direction, "when": when, **metrics}
