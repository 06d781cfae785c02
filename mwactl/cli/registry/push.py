"""`mwactl registry push`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, DryRun, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.pull import PlainHttp, pull_command
from mwactl.errors import Interrupted

if TYPE_CHECKING:
    from mwactl.registry import Entry, Registry
    from mwactl.remote import Item, Sent


def push_command(reference: str, address: str, *, public: bool = False, plain_http: bool = False) -> str:
    """The command that pushes this, to be typed."""
    options = [*(["--public"] if public else []), *(["--plain-http"] if plain_http else [])]
    return shlex.join(["mwactl", "registry", "push", reference, address, *options])


def push(
    reference: Annotated[
        str,
        typer.Argument(metavar="REF", help="coco-mwa, coco-mwa@3, coco-mwa:prod, …", autocompletion=complete_reference),
    ],
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="hf://ORGANISATION/NAME, or oci://HOST[:PORT]/REPOSITORY:TAG.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="If the Hub has no such repository: make one that everyone can see.")
    ] = False,
    plain_http: PlainHttp = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Send a version, with its evaluations, to the Hugging Face Hub or to an OCI registry.

    Its files are hashed first. The other side shows the whole of it or none; what is there already is not sent again.
    Logins are those of `hf auth login` (or HF_TOKEN) and `docker login`. A new repository on the Hub is private.
    """
    from mwactl import remote
    from mwactl.registry import Registry

    registry = Registry.default(reporter=out)
    entry = registry.resolve(reference)
    place = remote.open_remote(address, plain_http=plain_http, public=public, reporter=out)
    readme = _card(registry, entry) if address.startswith("hf://") else None
    again = push_command(reference, address, public=public, plain_http=plain_http)
    sent: Sent | None = None
    if dry_run:
        items = remote.plan_push(registry, entry, place, readme=readme)
    else:
        try:
            sent = remote.push(registry, entry, place, readme=readme, reporter=out)
        except Interrupted as stop:
            raise Interrupted("interrupted; what was sent is not sent again", fix=again) from stop
        items = list(sent.items)
    document = {
        "schema": 1,
        "reference": entry.reference,
        "digest": entry.digest,
        "address": address,
        "pinned": sent.pinned if sent else None,
        "items": [asdict(item) for item in items],
        "dry_run": dry_run,
    }
    identifier = sent.pinned if sent else address
    out.answer(document, human=lambda: _print_push(entry, address, items, sent), identifier=identifier)
    out.hint(f"{pull_command(address, plain_http=plain_http)}   (anywhere)" if sent else again)


def _card(registry: Registry, entry: Entry) -> bytes:
    """The model card, which the Hub shows as the repository's first page."""
    from mwactl.card import model_card

    card = model_card(registry, entry)
    if not card.publishable:
        out.warn(f"the model card is incomplete (mwactl card {entry.reference} --check)")
    return card.text.encode()


def _print_push(entry: Entry, address: str, items: list[Item], sent: Sent | None) -> None:
    out.text(f"{entry.reference} → {address}")
    for item in items:
        state = "there already" if item.there else "sent" if sent else "to be sent"
        out.text(f"  {item.what}  {size(item.size)}  sha256:{item.digest[:12]}  {state}")
    out.text(f"pushed {sent.pinned}" if sent else "nothing sent (dry run)")
