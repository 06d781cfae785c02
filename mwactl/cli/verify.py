"""`mwactl verify`: does a bundle still compute what it was exported to compute?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `mwactl export` wrote.")],
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, tensorrt.")] = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Replay an exported bundle on this machine, without torch: every file's digest, pixels, token ids, embeddings.

    For the digests of what the registry keeps: mwactl registry verify.
    """
    from mwactl.workflow.bundle import verify_bundle

    document = verify_bundle(bundle, device=device)
    out.answer(document, human=lambda: _describe(document), identifier=document["identity"])
    out.hint(f"mwactl embed {bundle} PICTURES -o COLLECTION")


def _describe(document: dict[str, Any]) -> None:
    tolerance, found = document["tolerance"], document["differences"]
    out.text(f"{document['bundle']}: {document['files']} files, {document['dtype']}, {document['model']['reference']}")
    for tower, providers in document["providers"].items():
        out.text(f"{tower} tower on {providers[0].removesuffix('ExecutionProvider')}")
    pixels = f"up to {levels:.0f} level of 255 apart" if (levels := found["pixels"]["max_levels"]) else "the same"
    out.text(f"token ids the same, pixels {pixels}")
    rows = [{"what": what, **apart} for what, apart in found.items() if what != "pixels"]
    out.table(
        [*rows, {"what": "tolerated", **tolerance}],
        [
            Column("what", "", keep=True),
            Column("max_abs", "largest difference", right=True, format="{:.1e}".format, keep=True),
            Column("min_cosine", "smallest cosine", right=True, format="{:.7f}".format, keep=True),
        ],
    )
