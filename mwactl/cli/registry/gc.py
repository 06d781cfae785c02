"""`mwactl registry gc`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.facts import counted
from mwactl.cli.registry.verify import print_fault

if TYPE_CHECKING:
    from mwactl.registry.gc import GcPlan

_DEFAULT_HOURS = 24.0


def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without this it only says what would go.")] = False,
    grace: Annotated[
        float, typer.Option("--grace", metavar="HOURS", min=0.0, help="Keep what is younger than this.")
    ] = _DEFAULT_HOURS,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Delete the content that no version, alias or result needs any more; first it says what that is.

    A version that was removed within the grace period keeps its content, so that it can be restored.
    """
    from mwactl.registry import Registry
    from mwactl.registry.gc import apply_gc, check_known, plan_gc

    registry = Registry.default(reporter=out)
    plan = plan_gc(registry, grace * 3600)
    if apply and not plan.faults:
        plan = apply_gc(registry, plan)
    document = {"schema": 1, "registry": str(registry.root), "applied": apply and not plan.faults}
    out.answer(
        document | plan.as_dict(registry.root),
        human=lambda: _print(registry.root, plan, grace, applied=apply),
        identifier="\n".join(file.path.relative_to(registry.root).as_posix() for file in plan.doomed),
    )
    check_known(plan)
    if plan.doomed and not apply:
        hours = "" if grace == _DEFAULT_HOURS else f" --grace {grace:g}"
        out.hint(f"mwactl registry gc --apply{hours}")
    else:
        out.hint("mwactl registry list")


def _print(root: Path, plan: GcPlan, hours: float, *, applied: bool) -> None:
    for fault in plan.faults:
        print_fault(fault, root)
    if not plan.faults:
        out.text(_summary(plan, hours, applied=applied))
    if plan.forgotten:
        verb = "cannot be restored any more" if applied else "can then no longer be restored"
        out.text(f"{', '.join(plan.forgotten)} {verb}")
    if plan.quarantined:
        held = size(sum(file.size for file in plan.quarantined))
        out.text(f"quarantine/ holds {counted(len(plan.quarantined), 'file')}, {held}; gc never touches it")


def _summary(plan: GcPlan, hours: float, *, applied: bool) -> str:
    kinds = {
        "unreferenced blob": len(plan.blobs),
        "stale upload": len(plan.staged),
        "pointer to a result of a removed version": len(plan.attachments),
    }
    parts = [_several(count, kind) for kind, count in kinds.items() if count]
    verb = "deleted" if applied else "would delete"
    what = f"{size(plan.size_bytes)}: {', '.join(parts)}" if parts else "nothing"
    kept = f"; keeping {plan.young} younger than {hours:g} h" if plan.young else ""
    return f"{verb} {what}{kept}"


def _several(count: int, kind: str) -> str:
    first, _, rest = kind.partition(" to ")
    return counted(count, first) + (f" to {rest}" if rest else "")
