"""The backbones: each plugin that registered, whether it loads, and which official weights are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

from mwactl.backbone.discovery import GROUP
from mwactl.backbone.spec import BackbonePlugin, BackboneSpec
from mwactl.backbone.store import is_here
from mwactl.home import weights_path
from mwactl.workflow.doctor.finding import Finding, State, in_one_line


def find_backbones() -> Iterator[Finding]:
    """Every plugin that an installed package registers."""
    seen: dict[str, EntryPoint] = {}
    for point in _points():
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        if point.name in seen:
            detail = f"`{point.value}` and `{seen[point.name].value}` provide one family"
            yield Finding(point.name, State.BROKEN, detail, f"pip uninstall {_package(point)}", required=True)
            continue
        seen[point.name] = point
        try:
            names = [spec.name for spec in _load(point).specs()]
        except Exception as error:  # a plugin may be anybody's
            detail = f"the plugin of {package} does not load: {in_one_line(error)}"
            yield Finding(point.name, State.BROKEN, detail, f"pip uninstall {_package(point)}, or update it")
        else:
            detail = f"{len(names)} backbones, from {package}"
            yield Finding(point.name, State.OK, detail, facts={"package": package, "backbones": names})
    if not seen:
        detail = "no package registers a backbone; mwactl itself should"
        yield Finding("backbones", State.MISSING, detail, "pip install --force-reinstall mwactl", required=True)


def find_weights() -> Iterator[Finding]:
    """The default weights of each backbone whose files have official names; the others are in the Hub's cache."""
    here: list[str] = []
    lacking: list[str] = []
    for spec in _specs():
        default = [file for file in spec.files if file.tag == spec.default_weights]
        if default:
            (here if all(is_here(spec, file) for file in default) else lacking).append(spec.name)
    facts = {"folder": str(weights_path()), "here": here, "missing": lacking}
    if here:
        yield Finding("weights", State.OK, f"of {', '.join(here)} in {weights_path()}", facts=facts)
    elif lacking:
        fix = f"mwactl backbones pull {lacking[0]}"
        yield Finding("weights", State.MISSING, f"none in {weights_path()}", fix, facts=facts)


def _points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _load(point: EntryPoint) -> BackbonePlugin:
    plugin: BackbonePlugin = point.load()
    return plugin


def _specs() -> Iterator[BackboneSpec]:
    """The backbones of the plugins that load; `find_backbones` tells of the others."""
    for point in _points():
        try:
            specs = list(_load(point).specs())
        except Exception:
            continue
        yield from specs


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
