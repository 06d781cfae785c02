"""Backbones come from whatever package registers itself, ours or anyone's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

from mwactl.backbone import BackboneSpec, WeightsRequest, all_specs, discovery, find_spec, plugins
from mwactl.backbone.contract import Backbone
from mwactl.errors import ExitCode, NotFoundError


class ThirdParty:
    """A plugin of a package that is not ours."""

    family = "towers"

    def specs(self) -> Sequence[BackboneSpec]:
        return [BackboneSpec("towers-small", "towers", "small"), BackboneSpec("towers-large", "towers", "large")]

    def parse(self, name: str) -> BackboneSpec | None:
        if not name.startswith("towers:"):
            return None
        return BackboneSpec(name, "towers", name.removeprefix("towers:"))

    def build(self, spec: BackboneSpec, weights: WeightsRequest) -> Backbone:
        raise NotImplementedError

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        raise NotImplementedError


third_party = ThirdParty()
Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """register("name=module:object", …): as if packages with these entry points were installed."""
    package = ModuleType("towers_package")
    package.plugin = third_party  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "towers_package", package)

    def install(*points: str) -> None:
        found = EntryPoints(EntryPoint(*point.split("="), group=discovery.GROUP) for point in points)
        monkeypatch.setattr(discovery, "entry_points", lambda *, group: found.select(group=group))
        plugins.cache_clear()

    yield install
    plugins.cache_clear()


def test_the_installed_distribution_registers_clip() -> None:
    plugins.cache_clear()
    assert plugins()["clip"].family == "clip"
    assert "clip-vit-b-32" in {spec.name for spec in all_specs()}


def test_a_third_partys_plugin_is_found_like_our_own(register: Register) -> None:
    register("clip=mwactl_clip:plugin", "towers=towers_package:plugin")
    assert list(plugins()) == ["clip", "towers"]
    assert {"towers-small", "clip-vit-b-32"} <= {spec.name for spec in all_specs()}
    assert find_spec("towers-large") == (third_party, third_party.specs()[1])
    assert find_spec("towers:anything")[1].model == "anything"


def test_two_packages_of_one_family_are_an_error_that_names_one(register: Register) -> None:
    register("clip=mwactl_clip:plugin", "clip=towers_package:plugin")
    with pytest.raises(NotFoundError, match="two installed packages provide the backbone family `clip`") as raised:
        plugins()
    assert raised.value.where == "towers_package:plugin"


@pytest.mark.parametrize(("name", "close"), [("towers-smal", "`towers-small`"), ("zzzz", None)])
def test_an_unknown_name_is_not_found_with_close_names(register: Register, name: str, close: str | None) -> None:
    register("towers=towers_package:plugin")
    with pytest.raises(NotFoundError, match=f"no backbone named `{name}`") as raised:
        find_spec(name)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert raised.value.fix == "mwactl backbones list"
    assert (raised.value.why is None) if close is None else (close in (raised.value.why or ""))


def test_importing_the_package_and_listing_backbones_imports_no_torch() -> None:
    code = "import sys, mwactl.backbone as b; assert b.all_specs(); print({'torch', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
