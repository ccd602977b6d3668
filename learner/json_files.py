"""Files of a run folder that hold JSON records: how they are read and written, and how strict both are.

A record is strict: it has all its keys and no other, so that a key that is renamed is an error and not a 0. `read` and
`read_lines` are lenient on purpose, because a folder may be of an older version: they drop keys that are unknown, and
give an empty value (null, 0, "", {}) to a key that is missing. A key whose default is None is left out of the file
where there is nothing to say.

One line of many that is not a record, by a fault of the disk or of an editor, costs itself alone: it is left out, and
named in the log. All other lines are worth having.
"""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, ValidationInfo, model_validator

from isentrope.errors import StorageError
from isentrope.rollout.wire.files import write_whole

BLOCK_BYTES = 1 << 16

DAMAGED = ".damaged"
"""Suffix of what was in the place of a file, and could not be used."""

WITHOUT_IT = "move the file away; every command does without it"

logger = logging.getLogger(__name__)

LENIENT = {"lenient": True}
"""Validation context of files that another version may have written."""


class JsonRecord(BaseModel):
    """A JSON object with declared keys."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants", defer_build=True)  # most commands need few

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
    if type(None) in get_args(annotation):
        return None
    kind = get_origin(annotation) or annotation
    return {} if issubclass(kind, BaseModel) else kind()


class FileRecord(JsonRecord):
    """The whole of one file of a run folder, or one line of it."""

    FILE: ClassVar[str]
    """Name of the file in the run folder."""


F = TypeVar("F", bound=FileRecord)


def read(folder: Path, kind: type[F]) -> F | None:
    """Return what a file of a run folder holds; None if there is none. StorageError if it holds something else, or
    cannot be read."""
    path = folder / kind.FILE
    try:
        with _told(path):
            text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _parsed(str(path), text, kind)


def read_lines(folder: Path, kind: type[F], left_out: Callable[[str, StorageError], None] | None = None) -> Iterator[F]:
    """Yield the records of a file of a run folder: a last line without its end was cut off by a crash.

    left_out: receives the place of each line that is not a record, and why; None: the log does.

    Raises:
        StorageError: the file cannot be read.
    """
    path = folder / kind.FILE
    with _told(path):
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    yield from records(kind, ((f"{path}:{number}", line) for number, line in enumerate(lines, 1)), left_out)


def read_lines_with(folder: Path, kind: type[F], key: str) -> Iterator[F]:
    """Yield the records of a file of a run folder whose lines hold a key; the other lines are not parsed. StorageError
    if the file cannot be read."""
    path, sought = folder / kind.FILE, json.dumps(key).encode()
    if not path.exists():
        return
    with _told(path), path.open("rb") as file:
        lines = ((f"{path}:{number}", line) for number, line in enumerate(file, 1) if line.endswith(b"\n"))
        yield from records(kind, ((place, line) for place, line in lines if sought in line))


def read_last(folder: Path, kind: type[F]) -> F | None:
    """Return the last record of a file of a run folder, read from its end; None if there is none. StorageError if the
    file cannot be read."""
    path = folder / kind.FILE
    if not path.exists():
        return None
    with _told(path):
        return next(records(kind, ((str(path), line) for line in _from_the_end(path))), None)


def records(
    kind: type[F], lines: Iterable[tuple[str, bytes]], left_out: Callable[[str, StorageError], None] | None = None
) -> Iterator[F]:
    """Yield the records of lines, each with its place; those that are not a record are left out, as in `read_lines`."""
    for place, line in lines:
        try:
            yield _parsed(place, line, kind)
        except StorageError as error:
            (left_out or _warn)(place, error)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise StorageError for what keeps a file that is there from being read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StorageError(f"it cannot be read: {error.strerror}", where=str(path), fix=WITHOUT_IT) from None


def _warn(place: str, error: StorageError) -> None:
    logger.warning("a line is left out: %s (%s)", error.what, place)


def _from_the_end(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a file, the last one first."""
    begun, cut_off = b"", True
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - BLOCK_BYTES)
            file.seek(begin)
            begun, *lines = (file.read(end - begin) + begun).split(b"\n")
            if lines and cut_off:  # what follows the last end of a line: mostly nothing
                lines.pop()
                cut_off = False
            yield from reversed(lines)
            end = begin
    if not cut_off:
        yield begun


def parse(line: bytes, kind: type[F]) -> F:
    """Return the record of one line, leniently. StorageError if it is not of this kind."""
    return _parsed(kind.FILE, line, kind)


def write(folder: Path, record: FileRecord) -> None:
    """Write a file of a run folder; a reader finds all of it or what was there before.

    Raises:
        StorageError: the disk refuses it.
    """
    path = folder / record.FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_room(path)
        write_whole(path, json.dumps(record.to_json(), indent=1) + "\n", durable=False)
    except OSError as error:
        raise StorageError(
            f"{record.FILE} cannot be written: {error.strerror}",
            where=str(path),
            fix="free the disk; the same command goes on from the last checkpoint",
        ) from None


def remove(folder: Path, kind: type[FileRecord]) -> None:
    """Remove a file of a run folder, if it is there."""
    path = folder / kind.FILE
    make_room(path)
    path.unlink(missing_ok=True)


def make_room(path: Path) -> None:
    """Put a folder aside that lies in the place of a file. OSError if it cannot be renamed."""
    if path.is_dir() and not path.is_symlink():
        put_aside(path)


def put_aside(path: Path) -> None:
    """Put under another name, which the log tells, what lies in the place of a file and cannot be used. OSError if it
    cannot be renamed."""
    names = (path.with_name(f"{path.name}{DAMAGED}{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    logger.warning("%s cannot be used, and is now %s", path, aside.name)


def _parsed(where: str, text: bytes, kind: type[F]) -> F:
    try:
        return kind.model_validate_json(text, context=LENIENT)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"not a record of this program: {key or 'the line'}: {first['msg']}",
            where=where,
            fix=WITHOUT_IT,
        ) from None
