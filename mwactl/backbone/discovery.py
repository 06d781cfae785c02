"""Finding backbones: every installed package that registers the entry point `mwactl.backbones`. No torch."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from mwactl.backbone.spec import BackbonePlugin, BackboneSpec
from mwactl.errors import IncompatibleError, NotFoundError

GROUP = "mwactl.backbones"


@cache
def plugins() -> dict[str, BackbonePlugin]:
    """The installed plugins by family name.

    Raises:
        NotFoundError: Two packages register the same family.
        IncompatibleError: A plugin cannot be imported.
    """
    found: dict[str, BackbonePlugin] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in found:
            raise NotFoundError(
                f"two installed packages provide the backbone family `{point.name}`",
                where=point.value,
                fix="pip uninstall one of them",
            )
        found[point.name] = _loaded(point)
    return found


def _loaded(point: EntryPoint) -> BackbonePlugin:
    """The plugin of an entry point; whatever its package raises on the way is its own mistake and not ours."""
    try:
        plugin: BackbonePlugin = point.load()
    except Exception as error:
        package = point.dist.name if point.dist else point.value.partition(":")[0]
        raise IncompatibleError(
            f"the plugin of the backbone family `{point.name}` cannot be imported",
            where=point.value,
            why=f"{type(error).__name__}: {error}",
            fix=f"mend it, or: pip uninstall {package}",
        ) from error
    return plugin


def all_specs() -> list[BackboneSpec]:
    """Every backbone that has a short name, by family and name."""
    return [spec for plugin in plugins().values() for spec in plugin.specs()]


def find_spec(name: str) -> tuple[BackbonePlugin, BackboneSpec]:
    """The plugin and spec of a backbone's name.

    Raises:
        NotFoundError: No plugin knows the name.
    """
    for plugin in plugins().values():
        for spec in plugin.specs():
            if spec.name == name:
                return plugin, spec
        if (parsed := plugin.parse(name)) is not None:
            return plugin, parsed
    close = difflib.get_close_matches(name, [spec.name for spec in all_specs()], n=3, cutoff=0.5)
    raise NotFoundError(
        f"no backbone named `{name}`",
        why=f"did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else None,
        fix="mwactl backbones list",
    )
