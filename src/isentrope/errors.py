"""Every error a user can meet, one tree.

IsentropeError                    exit code
  ├─ ConfigError (ValueError)            64  a key, value or combination of the run file
  ├─ NameTakenError (ValueError)         64  an actor's id that another process has
  ├─ DataError (ValueError)              65  data set or reward code
  │    └─ RewardError                    65
  ├─ UnreachableError (ConnectionError)  69  broker or actor, past its deadline
  │    └─ BrokerChangedError             69  the broker was restarted
  ├─ InternalError (RuntimeError)        70  a bug of this program
  │    ├─ RecordError (ValueError)       70  an invalid record on the wire
  │    └─ ArgumentError (ValueError)     70  tensors that do not fit a kernel
  ├─ RunFolderError (FileExistsError)    73  run folder or run name belongs to another configuration
  ├─ StorageError (OSError)              74  disk full, checkpoint or weights unreadable
  │    └─ OutcomeError                   74  a run has ended, and the disk refuses its outcome
  ├─ FencedError (RuntimeError)          75  a newer learner took over; do not restart
  ├─ AccessError (PermissionError)       77  password, access rules, TLS
  ├─ StalledError (TimeoutError)         78  a wait passed its deadline; names the cause
  └─ AlarmError (RuntimeError)           79  an alarm ended the run, as `learner.alarms.action` asks

Each says what was given, where, and what to do. They are printed as three lines without a traceback, and can be
pickled between processes.
"""

import difflib
import itertools
from collections.abc import Callable, Iterable
from typing import ClassVar

RESEMBLES = 2 / 3
"""Minimum similarity of a name that is suggested for another: up to one letter in three may be wrong. One typo in a
name of three letters is still understood, and a word that shares only half of its letters is not suggested."""


class IsentropeError(Exception):
    """Base of all errors of this project.

    Args:
        what: what is wrong: what was given and what is allowed.
        where: file, line and key, or the process concerned; may be empty.
        fix: what to do about it; may be empty.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[IsentropeError], what: str, where: str, fix: str) -> IsentropeError:
    return kind(what, where=where, fix=fix)


class ConfigError(IsentropeError, ValueError):
    """A key, value or combination of the configuration that is not allowed."""

    exit_code = 64


class NameTakenError(IsentropeError, ValueError):
    """An actor's id that another process of the run has."""

    exit_code = 64


class DataError(IsentropeError, ValueError):
    """A data set that cannot be used."""

    exit_code = 65


class RewardError(DataError):
    """A reward function that cannot be imported, fails, or does not return a reward."""


class UnreachableError(IsentropeError, ConnectionError):
    """A process that did not answer within its deadline."""

    exit_code = 69


class BrokerChangedError(UnreachableError):
    """The server at the broker's URL was restarted since the last fence, and may have lost state."""


class NoScriptsError(UnreachableError):
    """A broker that answers, and whose run no learner has opened since the broker began."""


class InternalError(IsentropeError, RuntimeError):
    """A bug of this program."""


class RecordError(InternalError, ValueError):
    """A record that is truncated, damaged, of another schema, or inconsistent."""


class ArgumentError(InternalError, ValueError):
    """A call of a kernel with wrong tensors; names the argument, the given value and the allowed ones."""


class RunFolderError(IsentropeError, FileExistsError):
    """A run folder, or a run name in the broker, that belongs to another configuration."""

    exit_code = 73


class StorageError(IsentropeError, OSError):
    """Storage that fails, or a checkpoint or weight file that differs from its manifest."""

    exit_code = 74


class OutcomeError(StorageError):
    """The outcome of a run that has ended, which the disk refuses."""


class FencedError(IsentropeError, RuntimeError):
    """This learner has been replaced by a newer incarnation and must stop."""

    exit_code = 75


class AccessError(IsentropeError, PermissionError):
    """The broker refuses the user, the password, the command or the certificate."""

    exit_code = 77


class StalledError(IsentropeError, TimeoutError):
    """No progress for longer than the deadline; the message names what was waited for."""

    exit_code = 78


class AlarmError(IsentropeError, RuntimeError):
    """A measurement beyond its bound in a run whose `learner.alarms.action` is `stop`; a checkpoint was written."""

    exit_code = 79


_REQUIREMENTS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "an object": "a table",
    "a valid dictionary": "a table",
}


def requirement(message: str) -> str:
    """Return what a value must be, in the words of a TOML file, from pydantic's message about it."""
    text = message.partition("should be ")[2] or message
    return _REQUIREMENTS.get(text.partition(",")[0], text)


def collected(*checks: Callable[[], object]) -> list[Exception]:
    """Return the errors of all the checks, each of which raises one, a group of them, or none."""
    errors: list[Exception] = []
    for check in checks:
        try:
            check()
        except ExceptionGroup as group:
            errors += group.exceptions
        except IsentropeError as error:
            errors.append(error)
    return errors


def nearest(given: str, names: Iterable[str]) -> str:
    """Return the one of `names` that was probably meant by `given`, whatever the case; empty if none resembles it.

    Of several that resemble it as much it is the one with most of the first letters, where slips are rare.
    """
    by_lower, sought = {name.lower(): name for name in names}, given.lower()

    def likeness(name: str) -> tuple[float, int]:
        alike = itertools.takewhile(lambda letters: letters[0] == letters[1], zip(name, sought, strict=False))
        return difflib.SequenceMatcher(None, name, sought).ratio(), len(list(alike))

    close = difflib.get_close_matches(sought, by_lower, cutoff=RESEMBLES)
    return by_lower[max(close, key=likeness)] if close else ""
