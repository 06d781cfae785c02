"""`mwactl registry pull`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.errors import Interrupted

if TYPE_CHECKING:
    from mwactl.registry import Entry
    from mwactl.remote import Pull

PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Speak HTTP without encryption to a registry that is on another machine.")
]


def pull_command(address: str, *, name: str | None = None, plain_http: bool = False) -> str:
    """The command that pulls this, to be typed."""
    options = [*(["--name", name] if name else []), *(["--plain-http"] if plain_http else [])]
    return shlex.join(["mwactl", "registry", "pull", address, *options])


def pull(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="hf://ORGANISATION/NAME[@REVISION], or oci://HOST[:PORT]/REPOSITORY:TAG."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="The name it gets here (default: the one it has).")] = None,
    plain_http: PlainHttp = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a version, with its evaluations, from the Hugging Face Hub or from an OCI registry.

    It gets its name when every byte is verified. An interrupted pull goes on where it stopped; what is in the registry
    already is not fetched again, unless it is corrupt: so a pull repairs, too.
    """
    from mwactl import remote
    from mwactl.registry import Registry

    registry = Registry.default(reporter=out)
    place = remote.open_remote(address, plain_http=plain_http, reporter=out)
    plan = remote.plan_pull(registry, place, name)
    again = pull_command(address, name=name, plain_http=plain_http)
    entry: Entry | None = None
    if not dry_run:
        try:
            entry = remote.pull(registry, place, plan, reporter=out)
        except Interrupted as stop:
            raise Interrupted("interrupted; what has come is kept", fix=again) from stop
    document = {
        "schema": 1,
        "address": address,
        "name": plan.name,
        "reference": entry.reference if entry else None,
        "digest": plan.delivery.digest,
        "held_before": list(plan.held),
        "files": [
            {**{key: file[key] for key in ("path", "size", "sha256")}, "here": file["sha256"] in plan.here}
            for file in plan.delivery.files
        ],
        "attachments": len(plan.delivery.attachments),
        "fetched_bytes": plan.fetch_bytes,
        "dry_run": dry_run,
    }
    identifier = entry.reference if entry else plan.name
    out.answer(document, human=lambda: _print_pull(address, plan, entry), identifier=identifier)
    out.hint(f"mwactl registry show {entry.reference}" if entry else again)


def _print_pull(address: str, plan: Pull, entry: Entry | None) -> None:
    out.text(f"{address}  {plan.name}  sha256:{plan.delivery.digest[:12]}…")
    for file in plan.delivery.files:
        state = "here already" if file["sha256"] in plan.here else "fetched" if entry else "to be fetched"
        out.text(f"  {file['path']}  {size(file['size'])}  sha256:{file['sha256'][:12]}  {state}")
    out.text(f"  {len(plan.delivery.attachments)} attached")
    if plan.held:
        out.text(f"it is here already: {', '.join(plan.held)}")
    out.text(f"pulled {entry.reference}" if entry else "nothing written (dry run)")
