"""The interpreter, the packages that every job needs, and the extras that some features need."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import mwactl
from mwactl.workflow.doctor.finding import Finding, State, in_one_line
from mwactl.workflow.doctor.probe import Probed

#: Distribution → module, where the names differ by more than a dash.
_MODULES = {"open-clip-torch": "open_clip", "onnxruntime-gpu": "onnxruntime", "pillow": "PIL", "pyyaml": "yaml"}
#: Extra → what it is for.
_FEATURES = {
    "hf-text": "text towers from Hugging Face: SigLIP, RoBERTa, XLM-R, T5",
    "lora": "the baseline `method.name: lora`",
    "parquet": "data sets in Parquet",
    "tensorboard": "curves in TensorBoard",
    "trackio": "curves in trackio",
    "wandb": "curves in wandb",
}
_NOT_FOR_USERS = {"dev"}


def find_python() -> Iterator[Finding]:
    """mwactl and the interpreter."""
    own = mwactl.__version__
    yield Finding("mwactl", State.OK, f"{own} in {mwactl.__path__[0]}", facts={"version": own})
    wanted = SpecifierSet(",".join(_installed().metadata.get_all("Requires-Python") or []))
    fits = wanted.contains(platform.python_version(), prereleases=True)
    yield Finding(
        "python",
        State.OK if fits else State.BROKEN,
        f"{platform.python_version()}, {platform.platform()}" + ("" if fits else f"; mwactl needs {wanted}"),
        None if fits else f"install mwactl with a Python {wanted}",
        required=True,
        facts={"version": platform.python_version(), "platform": platform.platform(), "executable": sys.executable},
    )


def base_modules() -> list[str]:
    """The modules of the packages that every job needs."""
    return [_module(requirement) for requirement in _base()]


def find_packages(probed: Probed) -> Iterator[Finding]:
    """Each package that every job needs: its version, and whether it can be imported."""
    for requirement in _base():
        name = requirement.name
        found, wrong = _version(name), probed.get(_module(requirement), {}).get("error")
        fix = f"pip install --force-reinstall '{name}{requirement.specifier}'"
        facts = {"version": found, "needs": str(requirement.specifier)}
        if found is None:
            fix = f"pip install '{name}{requirement.specifier}'"
            yield Finding(name, State.MISSING, f"needs {requirement.specifier}", fix, required=True, facts=facts)
        elif wrong is not None:
            detail = f"{found} cannot be imported: {in_one_line(wrong)}"
            yield Finding(name, State.BROKEN, detail, fix, required=True, facts=facts)
        elif not _is_here(requirement):
            detail = f"{found}, but mwactl needs {requirement.specifier}"
            yield Finding(name, State.BROKEN, detail, fix, required=True, facts=facts)
        else:
            yield Finding(name, State.OK, found, required=True, facts=facts)


def find_features() -> Iterator[Finding]:
    """Each extra: what it is for, and whether its packages are here."""
    extras = _installed().metadata.get_all("Provides-Extra") or []
    base = _base()
    for extra in sorted(set(extras) - _NOT_FOR_USERS):
        needed = [requirement for requirement in _requirements(extra) if requirement not in base]
        lacking = [f"{each.name}{each.specifier}" for each in needed if not _is_here(each)]
        what = _FEATURES.get(extra, f"the extra `{extra}`")
        facts = {"extra": extra, "lacks": lacking}
        if lacking:
            detail = f"{what}; lacks {', '.join(lacking)}"
            yield Finding(extra, State.MISSING, detail, f"pip install 'mwactl[{extra}]'", facts=facts)
        else:
            yield Finding(extra, State.OK, what, facts=facts)


def _installed() -> Distribution:
    return distribution("mwactl")


def _base() -> list[Requirement]:
    """What every job needs; first what others are built on, whose trouble is the cause of theirs."""
    return sorted(_requirements(""), key=lambda requirement: requirement.name not in ("numpy", "torch"))


def _requirements(extra: str) -> list[Requirement]:
    """What the package needs on this machine, with an extra or (empty) without."""
    parsed = map(Requirement, _installed().requires or [])
    return [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": extra})]


def _module(requirement: Requirement) -> str:
    name = canonicalize_name(requirement.name)
    return _MODULES.get(name, name.replace("-", "_"))


def _is_here(requirement: Requirement) -> bool:
    found = _version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
