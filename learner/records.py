"""What a run writes into its folder: the file names, and a type for each file or for each line of it.

Writers and readers share these types, so that a key that is renamed is an error and not a 0. A record is strict: it has
all its keys and no other. `read` and `read_lines` are lenient on purpose, because a folder may be of an older version:
they drop keys that are unknown, and give an empty value (0, "", {}) to a key that is missing. A key whose default is
None is left out of the file where there is nothing to say. Knows pydantic and files; no tensor, and not who computes
the numbers.
"""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, ValidationInfo, model_validator

from isentrope.errors import IsentropeError, StorageError
from isentrope.rollout.wire.files import write_whole

LENIENT = {"lenient": True}
"""Validation context of files that another version may have written."""


class JsonRecord(BaseModel):
    """A JSON object with declared keys."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    INDISPENSABLE: ClassVar[frozenset[str]] = frozenset()
    """Keys that no version may lack."""

    PATTERNS: ClassVar[Mapping[str, str]] = {}
    """Unit and meaning of keys that are named after what the run chose, by `fnmatch` pattern."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        if info.context == LENIENT:
            missing = {
                name: _empty(field.annotation)
                for name, field in cls.model_fields.items()
                if field.is_required() and name not in cls.INDISPENSABLE
            }
            return missing | {name: value for name, value in values.items() if cls.declares(name)}
        if unknown := [name for name in values if not cls.declares(name)]:
            raise ValueError(f"{cls.__name__} has no key {', '.join(unknown)}")
        return values

    @classmethod
    def declares(cls, name: str) -> bool:
        """Say whether a record may have this key."""
        return name in cls.model_fields or any(fnmatchcase(name, pattern) for pattern in cls.PATTERNS)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON object, without the optional keys that are not set."""
        values: dict[str, JsonValue] = self.model_dump(mode="json", exclude_defaults=True)
        return values


def _empty(annotation: Any) -> Any:
    kind = get_origin(annotation) or annotation
    return {} if issubclass(kind, BaseModel) else kind()


class FileRecord(JsonRecord):
    """The whole of one file of a run folder, or one line of it."""

    FILE: ClassVar[str]
    """Name of the file in the run folder."""


class Outcome(FileRecord):
    """How a run ended: `outcome.json`. Written by rank 0 of the learner as its last act, and by the command where the
    run ends by an error that the learner does not know of."""

    FILE = "outcome.json"
    INDISPENSABLE = frozenset({"status", "exit_code"})

    status: Literal["finished", "stopped", "error"]
    """How it ended: all batches are trained, an operator asked for it, or by the error of `what`, `where` and `fix`."""
    exit_code: int
    """Exit code of the command; 0 without an error."""
    what: str
    """What is wrong; empty without an error."""
    where: str
    """File, key or process of the error; may be empty."""
    fix: str
    """What to do about the error; may be empty."""
    incarnation: int
    """How many learners the run has had; each start or restart is one."""
    batches: int
    """Trained batches, over the whole run."""
    version: int
    """Newest published version of the weights."""
    trained: int
    """Trained groups, over the whole run."""
    retired: dict[str, int]
    """Groups that were issued and not trained, by reason, over the whole run."""
    issued: int
    """Groups that were ordered, over the whole run; the sum of `trained` and `retired` once it has ended."""
    published: int
    """Groups that actors published since the broker's state began."""
    idle_s: float
    """Seconds that this learner waited for batches."""
    total_s: float
    """Seconds from this learner's start to its end."""

    @classmethod
    def of_nothing(cls, what: str = "") -> Self:
        """Return the outcome of a run that was stopped before anything was trained."""
        return cls(
            status="stopped",
            exit_code=0,
            what=what,
            where="",
            fix="",
            incarnation=0,
            batches=0,
            version=0,
            trained=0,
            retired={},
            issued=0,
            published=0,
            idle_s=0.0,
            total_s=0.0,
        )

    def ended_by(self, error: IsentropeError) -> Self:
        """Return the same counts of a run that this error has ended."""
        why = {"what": error.what, "where": error.where, "fix": error.fix}
        return self.model_copy(update={"status": "error", "exit_code": error.exit_code, **why})


class RunRecord(FileRecord):
    """What runs in a folder, and how to reach it: `run.json`. Written by the command that runs; holds no secrets."""

    FILE = "run.json"
    INDISPENSABLE = frozenset(
        {"run", "config_digest", "data_digest", "mode", "batches", "started", "socket", "url_env", "insecure"}
    )

    run: str
    """Name of the run."""
    config_digest: str
    """Digest of the configuration, which a run keeps to its end."""
    data_digest: str
    """Digest of all data of the run."""
    method: str
    """Presets of the objective, joined by ` + `."""
    mode: str
    """Mode that the run began in: `async` or `on_policy`."""
    seed: int
    """Seed of the run."""
    batches: int
    """Batches to train."""
    actors: int
    """Rollout actors to start."""
    ranks: int
    """Processes of the learner."""
    run_file: str
    """Path of the run file."""
    started: float
    """When the newest command began, seconds of Unix time."""
    versions: dict[str, str]
    """Versions of this program, of Python and of the libraries that matter, by name."""
    host: str
    """Machine of the command."""
    pid: int
    """Process id of the command."""
    socket: str
    """Path of the private broker's socket, with its password beside it; empty: a broker by URL."""
    url_env: str
    """Environment variable that holds the broker's URL; used where `socket` is empty."""
    insecure: bool
    """Whether a connection to the broker without TLS is allowed."""


F = TypeVar("F", bound=FileRecord)


def read(folder: Path, kind: type[F]) -> F | None:
    """Return what a file of a run folder holds; None if there is none. StorageError if it holds something else."""
    path = folder / kind.FILE
    try:
        return _parsed(str(path), path.read_bytes(), kind)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_lines(folder: Path, kind: type[F]) -> Iterator[F]:
    """Return the whole lines of a file of a run folder: a last line without its end was cut off by a crash.

    StorageError if a line is not of this kind.
    """
    path = folder / kind.FILE
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if line.endswith(b"\n"):
            yield _parsed(f"{path}:{number}", line, kind)


def parse(line: bytes, kind: type[F]) -> F:
    """Return the record of one line, leniently. StorageError if it is not of this kind."""
    return _parsed(kind.FILE, line, kind)


def write(folder: Path, record: FileRecord) -> None:
    """Write a file of a run folder; a reader finds all of it or what was there before."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / record.FILE, json.dumps(record.to_json(), indent=1) + "\n", durable=False)


def remove(folder: Path, kind: type[FileRecord]) -> None:
    """Remove a file of a run folder, if it is there."""
    (folder / kind.FILE).unlink(missing_ok=True)


def _parsed(where: str, text: bytes, kind: type[F]) -> F:
    try:
        return kind.model_validate_json(text, context=LENIENT)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"not a record of this program: {key or 'the line'}: {first['msg']}",
            where=where,
            fix="move the file away; a report does without it",
        ) from None
