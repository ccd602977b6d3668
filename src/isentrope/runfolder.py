"""A run's folder: its lock, its `run.json`, and the way to the run's broker.

`run.json` is written by the command that runs, and read by `status`, `mode` and the report; it holds no secrets.
"""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Self

from isentrope.environment import variable
from isentrope.errors import ConfigError, IsentropeError, RunFolderError, StorageError, UnreachableError
from isentrope.learner import json_files
from isentrope.learner.records import Outcome, RunRecord
from isentrope.redis_server import private_url
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView

RUNS = Path("runs")
"""Default folder of runs."""

LOCK = "run.lock"
LOCK_TRIES = 20


class RunFolder:
    """A run folder held by this process alone; a context manager."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def claim(cls, path: Path, *, config_digest: str, data_digest: str) -> Self:
        """Create the folder if it does not exist, and lock it against other commands.

        Raises:
            RunFolderError: another command runs in it, its run has another configuration, or it is not a run folder.
            StorageError: it cannot be created.
        """
        if path.is_dir() and not (path / LOCK).exists() and any(path.iterdir()):
            raise RunFolderError(f"{path} is not empty, and not a run folder", fix="choose another run.output_dir")
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "logs").mkdir(exist_ok=True)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except (FileExistsError, NotADirectoryError):
            raise RunFolderError(f"{path} is not a folder", fix="choose another run.output_dir") from None
        except OSError as error:
            raise StorageError(f"cannot create run folder {path}: {error.strerror}") from None
        folder = cls(path, lock)
        try:
            _lock(lock)
            folder._require(config_digest, data_digest)
        except BlockingIOError:
            folder.release()
            raise RunFolderError(
                f"another command runs in {path}", fix="wait for it, or choose another run.output_dir"
            ) from None
        except RunFolderError:
            folder.release()
            raise
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Unlock the folder."""
        os.close(self._lock)

    @property
    def is_new(self) -> bool:
        """True if no command has run here before."""
        return not (self.path / RunRecord.FILE).exists()

    def is_finished(self, batches: int) -> bool:
        """Return True if the run has ended with at least `batches` batches."""
        outcome = json_files.read(self.path, Outcome)
        return outcome is not None and outcome.status == "finished" and outcome.batches >= batches

    def begin(self, record: RunRecord) -> None:
        """Write `run.json`, and delete the outcome of an earlier command."""
        json_files.write(self.path, record)
        json_files.remove(self.path, Outcome)

    def _require(self, config_digest: str, data_digest: str) -> None:
        if self.is_new:
            return
        record = read_record(self.path)
        for thing, there, here in (
            ("configuration", record.config_digest, config_digest),
            ("data", record.data_digest, data_digest),
        ):
            if there != here:
                raise RunFolderError(
                    f"the run in {self.path} began with another {thing} ({there[:8]}, this one is {here[:8]})",
                    where=str(self.path / RunRecord.FILE),
                    fix="choose another run.output_dir, or undo the change",
                )


def has_ended(path: Path) -> bool:
    """Return True if this folder holds a finished run."""
    outcome = json_files.read(path, Outcome)
    return outcome is not None and outcome.status == "finished"


def is_held(path: Path) -> bool:
    """Return True if a command runs in this folder."""
    if not (path / LOCK).exists():
        return False
    lock = os.open(path / LOCK, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def _lock(lock: int) -> None:
    """Take the lock, or raise BlockingIOError; wait for a command that is ending, or that only tests the lock."""
    for _ in range(LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.1)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_record(path: Path) -> RunRecord:
    """Return the record of the run in a folder; RunFolderError if it is not a run folder."""
    try:
        record = json_files.read(path, RunRecord)
    except StorageError:
        raise RunFolderError(f"{path / RunRecord.FILE} was written by another version of this program") from None
    if record is None:
        raise RunFolderError(f"{path} is not a run folder: it has no {RunRecord.FILE}", fix="give the run's folder")
    return record


def record_error(path: Path, error: IsentropeError) -> None:
    """Record that the run in this folder ended by an error outside the learner; the learner's counts stay."""
    json_files.write(path, (json_files.read(path, Outcome) or Outcome.of_nothing()).ended_by(error))


def newest(runs: Path) -> Path:
    """Return the folder among `runs` whose run started last."""
    records = list(runs.glob(f"*/{RunRecord.FILE}"))
    if not records:
        raise RunFolderError(f"there is no run under {runs.resolve()}", fix="give the run's folder")
    return max(records, key=lambda path: path.stat().st_mtime).parent


def open_view(record: RunRecord, *, deadline_s: float) -> RunView:
    """Return the run's view; UnreachableError if its private broker is gone, or its broker does not answer."""
    if record.socket and not Path(record.socket).exists():
        raise UnreachableError(f"run {record.run!r} is not running: its private broker is gone")
    url = private_url(Path(record.socket)) if record.socket else variable(record.url_env)
    if not url:
        raise ConfigError(f"{record.url_env} is not set, and the run's broker is known by it alone", fix="set it")
    return RunView(Broker.connect(url, record.run, deadline_s=deadline_s, insecure=record.insecure))


def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()
