"""The folder of a comparison: a run folder for each method and seed, and a record of what it compares."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from isentrope.errors import RunFolderError, StorageError
from isentrope.rollout.wire.files import write_whole

RECORD = "comparison-plan.json"
LONGEST_NAME = 63
SHORT_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """Contents of a comparison. digests: of the first run's configuration, by method; pins: values by key."""

    run: str
    first_seed: int
    pins: Mapping[str, float]
    data_digest: str
    digests: Mapping[str, str]


def claim(folder: Path, plan: Plan) -> None:
    """Make the folder that of a comparison, or continue it, also with more methods or seeds.

    Raises:
        RunFolderError: it holds something else, or a comparison that began otherwise.
        StorageError: it cannot be written.
    """
    path = folder / RECORD
    if path.is_file():
        _require_same(_read(path), plan, path)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(
            f"{folder} holds something other than a comparison (it has no {RECORD})", fix="choose another --output"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(plan), indent=1) + "\n", durable=False)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", fix="choose another --output") from None


def run_folder(folder: Path, method: str, seed: int) -> Path:
    """Return the folder of one run."""
    return folder / directory(method) / f"seed-{seed}"


def directory(method: str) -> str:
    """Return the name of a method's folder; that of a file is the file's."""
    return "+".join(Path(part).stem if part.endswith(".toml") else part for part in method.split("+"))


def run_name(run: str, method: str, seed: int) -> str:
    """Return the name of one run in the broker, which may have runs of other comparisons."""
    text = f"{run}-{directory(method)}-{seed}"
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(text.encode(), digest_size=SHORT_DIGEST // 2).hexdigest()
    return f"{name[: LONGEST_NAME - SHORT_DIGEST - 1]}-{digest}"


def _read(path: Path) -> Plan:
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise RunFolderError(f"{path} is damaged", fix="choose another --output") from None


def _require_same(there: Plan, here: Plan, path: Path) -> None:
    """Raise RunFolderError if the runs of the folder are not among those that are asked for."""
    changes = []
    if missing := sorted(there.digests.keys() - here.digests.keys()):
        changes.append(f"it has runs of {', '.join(missing)}, too")
    if there.first_seed != here.first_seed:
        changes.append(f"its first seed was {there.first_seed} and is {here.first_seed}")
    changes += [
        f"{key} was {_pinned(there, key)} and is {_pinned(here, key)}"
        for key in sorted(there.pins.keys() | here.pins.keys())
        if there.pins.get(key) != here.pins.get(key)
    ]
    if there.data_digest != here.data_digest:
        changes.append("the data are others")
    other = [method for method, digest in there.digests.items() if here.digests.get(method, digest) != digest]
    if other and not changes:
        changes.append(f"the settings of {', '.join(other)} are others than those of its runs")
    if there.run != here.run and not changes:
        changes.append(f"run.name was {there.run!r} and is {here.run!r}")
    if changes:
        raise RunFolderError(
            f"the comparison in {path.parent} began otherwise: {'; '.join(changes)}",
            where=str(path),
            fix="choose another --output, or undo the change",
        )


def _pinned(plan: Plan, key: str) -> str:
    return f"{plan.pins[key]:g}" if key in plan.pins else "not pinned"
