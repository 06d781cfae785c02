"""What is here, what is missing for which feature, what is broken: everything a report of a problem should hold.

Each check stands for itself: one that fails is a finding, not the end of the others. What may take the process down
(a broken torch) is tried in another one. Nothing is written, and the network is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mwactl.workflow.doctor.finding import Finding, State, in_one_line

__all__ = ["Finding", "State", "diagnose"]

_AGAIN = "pip install --force-reinstall mwactl; if it stays so, this is a bug: please report it with this output"


def diagnose() -> dict[str, list[Finding]]:
    """Every finding, by section. Takes seconds: what training imports is imported, and each device computes."""
    sections: dict[str, Callable[[], Iterable[Finding]]] = {
        "software and devices": _software_and_devices,
        "places": _places,
        "backbones": _backbones,
        "features": _features,
    }
    return {name: _guarded(name, find) for name, find in sections.items()}


def _software_and_devices() -> Iterable[Finding]:
    from mwactl.workflow.doctor import devices, software
    from mwactl.workflow.doctor.probe import CUDA, PROVIDERS, probe

    probed = probe([*software.base_modules(), CUDA, PROVIDERS])
    yield from software.find_python()
    yield from software.find_packages(probed)
    yield from devices.find_machine()
    yield from devices.find_cards(probed)
    yield from devices.find_providers(probed)


def _places() -> Iterable[Finding]:
    from mwactl.workflow.doctor import storage

    yield from storage.find_places()
    yield from storage.find_registry()


def _backbones() -> Iterable[Finding]:
    from mwactl.workflow.doctor import models

    yield from models.find_backbones()
    yield from models.find_weights()


def _features() -> Iterable[Finding]:
    from mwactl.workflow.doctor import software

    yield from software.find_features()


def _guarded(section: str, find: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a section found, up to an error that nobody foresaw, which is then the last finding."""
    found: list[Finding] = []
    try:
        for finding in find():
            found.append(finding)  # one by one: those before an error count
    except Exception as error:
        found.append(Finding(section, State.BROKEN, in_one_line(error), _AGAIN, required=True))
    return found
