from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from mwactl.home import cache_path, catalogue_path, home, registry_path, runs_path


def test_mwactl_home_moves_everything(empty_home: Path):
    assert home() == empty_home
    for path in (registry_path(), catalogue_path(), cache_path(), runs_path()):
        assert path.parent == empty_home


def test_the_places_do_not_overlap():
    places = [registry_path(), catalogue_path(), cache_path(), runs_path()]
    assert len(set(places)) == 4


def test_mwactl_registry_moves_the_registry_alone(empty_home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MWACTL_REGISTRY", "/elsewhere/registry")
    assert registry_path() == Path("/elsewhere/registry")
    assert runs_path().parent == home() == empty_home


@pytest.mark.parametrize("variable", ["MWACTL_HOME", "MWACTL_REGISTRY"])
def test_a_tilde_is_the_users_directory(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "~/adapters")
    assert (home() if variable == "MWACTL_HOME" else registry_path()) == Path.home() / "adapters"


@pytest.mark.parametrize("value", [None, ""])
def test_unset_or_empty_it_is_the_platforms_data_directory(value: str | None, monkeypatch: pytest.MonkeyPatch):
    for variable in ("MWACTL_HOME", "MWACTL_REGISTRY"):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert home() == platformdirs.user_data_path("mwactl")
    assert registry_path() == home() / "registry"


def test_asking_makes_no_directory(empty_home: Path):
    for place in (registry_path, catalogue_path, cache_path, runs_path):
        place()
    assert not empty_home.exists()
