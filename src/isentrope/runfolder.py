"""A run's folder: its lock, its `run.json`, and the way to the run's broker.

`run.json` is written by the command that runs, and read by `status`, `mode` and the report; it holds no secrets.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from isentrope.broker_url import url_for
from isentrope.errors import ConfigError, IsentropeError, RunFolderError, StorageError, UnreachableError
from isentrope.learner import json_files
from isentrope.learner.records import RUN_SCHEMA, BatchRow, Outcome, RunRecord
from isentrope.redis_server import private_url
from isentrope.resolved import ResolvedRun
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView
from isentrope.runfile import read

RUNS = Path("runs")
"""Default folder of runs."""

LOCK = "run.lock"
LOCK_TRIES = 20

logger = logging.getLogger(__name__)


class RunFolder:
    """A run folder held by this process alone; a context manager."""

    def __init__(self, path: Path, lock: int, resolved: ResolvedRun | None) -> None:
        self.path = path
        self._lock = lock
        self._resolved = resolved
        self.has_begun = False
        """True if this command has begun the run: what it leaves is of this run."""

    @classmethod
    def claim(
        cls,
        path: Path,
        *,
        config_digest: str,
        data_digest: str,
        resolved: ResolvedRun | None = None,
        only: str = "",
    ) -> Self:
        """Create the folder if it does not exist, and lock it against other commands.

        Args:
            path: the folder.
            config_digest: digest of the run's configuration.
            data_digest: digest of the run's data.
            resolved: settings that the folder will keep, and that a refusal is explained by.
            only: part of training that the run does; empty: all of it.

        Raises:
            RunFolderError: another command runs in it, its run has another configuration, does another part of
                training or is of another version of this program, or it is not a run folder.
            StorageError: it cannot be created.
        """
        if path.is_dir() and not (path / LOCK).exists() and any(path.iterdir()):
            raise RunFolderError(f"{path} is not empty, and not a run folder", fix="choose another run.output_dir")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            (path / "logs").mkdir(exist_ok=True)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except (FileExistsError, NotADirectoryError):
            raise RunFolderError(f"{path} is not a folder", fix="choose another run.output_dir") from None
        except OSError as error:
            raise StorageError(f"cannot create run folder {path}: {error.strerror}") from None
        folder = cls(path, lock, resolved)
        try:
            _lock(lock)
            folder._require(config_digest, data_digest, only)
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
        outcome = _outcome(self.path)
        return outcome is not None and outcome.status == "finished" and outcome.batches >= batches

    def begin(self, record: RunRecord) -> None:
        """Write `run.json` and the run's settings, and delete the outcome of an earlier command.

        Raises:
            StorageError: the disk refuses that.
        """
        json_files.write(self.path, record)
        try:
            if self._resolved is not None:
                self._resolved.write(self.path)
            json_files.remove(self.path, Outcome)
        except OSError as error:
            raise StorageError(f"the run folder cannot be written: {error.strerror}", where=str(self.path)) from None
        self.has_begun = True

    def _require(self, config_digest: str, data_digest: str, only: str) -> None:
        if self.is_new:
            return
        record = read_record(self.path)
        if record.only != only:
            began, here = (f"--only {each}" if each else "no --only" for each in (record.only, only))
            raise RunFolderError(
                f"the run in {self.path} was begun with {began}, and this command has {here}",
                where=str(self.path / RunRecord.FILE),
                fix=f"give {began}, or choose another run.output_dir",
            )
        if record.schema_version < RUN_SCHEMA:
            raise RunFolderError(
                f"the run in {self.path} was begun by {_program(record.versions)}, and this version cannot continue it",
                where=str(self.path / RunRecord.FILE),
                fix="continue it with that version, or begin a new run from the folder that `isentrope export` makes",
            )
        for thing, there, here in (
            ("configuration", record.config_digest, config_digest),
            ("data", record.data_digest, data_digest),
        ):
            if there != here:
                changes = self._resolved.changes(self.path) if self._resolved is not None else []
                why = "; ".join(changes) if changes and thing == "configuration" else f"{there[:8]}, now {here[:8]}"
                raise RunFolderError(
                    f"the run in {self.path} began with another {thing}: {why}",
                    where=str(self.path / RunRecord.FILE),
                    fix="choose another run.output_dir, or undo the change",
                )


def has_ended(path: Path) -> bool:
    """Return True if this folder holds a finished run."""
    outcome = _outcome(path)
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
    """Return the record of the run in a folder.

    Raises:
        RunFolderError: it is not a run folder, or one of a newer version of this program, or its record is damaged.
    """
    _require_known_schema(path)
    try:
        record = json_files.read(path, RunRecord)
    except StorageError as error:
        raise RunFolderError(
            f"{path / RunRecord.FILE} is damaged: {error.what}", fix="restore it, or begin a new run"
        ) from None
    if record is None:
        raise RunFolderError(f"{path} is not a run folder: it has no {RunRecord.FILE}", fix="give the run's folder")
    return record


def _require_known_schema(path: Path) -> None:
    """Refuse a record of a newer version by that, whatever else it holds; its reader refuses what is not a record."""
    try:
        written = json.loads((path / RunRecord.FILE).read_bytes())
        schema = int(written.get("schema_version", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        return
    if schema > RUN_SCHEMA:
        versions = written.get("versions")
        raise RunFolderError(
            f"the run in {path} was begun by {_program(versions if isinstance(versions, dict) else {})}, whose run "
            f"folders have schema {schema}, and this version reads up to {RUN_SCHEMA}",
            where=str(path / RunRecord.FILE),
            fix="use that version",
        )


def _program(versions: Mapping[str, object]) -> str:
    return f"isentrope {versions['isentrope']}" if "isentrope" in versions else "another version of isentrope"


def record_error(path: Path, error: IsentropeError) -> None:
    """Record that the run in this folder ended by an error outside the learner; the learner's counts stay, and so does
    an error that is recorded already."""
    outcome = _outcome(path) or _without_outcome(path)
    if outcome.status != "error":
        json_files.write(path, outcome.ended_by(error))


def _outcome(path: Path) -> Outcome | None:
    """Return how the run in a folder has ended; None: that is not told, or damaged, which must end no command."""
    try:
        return json_files.read(path, Outcome)
    except StorageError as error:
        logger.warning("%s (%s)", error.what, error.where)
        return None


def _without_outcome(path: Path) -> Outcome:
    """Return the outcome of a run whose learner left none: what its last row tells."""
    nothing = Outcome.of_nothing()
    last = json_files.read_last(path, BatchRow)
    return nothing if last is None else nothing.model_copy(update={"batches": last.batch, "version": last.version})


def find(place: Path) -> Path:
    """Return the run folder that a user means by `place`: the folder itself, the newest run in it or in its `runs`, or
    that of a run file.

    Raises:
        RunFolderError: there is no run.
        ConfigError: the run file cannot be read.
    """
    if not place.exists():
        raise RunFolderError(f"there is no {place.absolute()}", fix="give a run's folder, or its run file")
    if place.is_file():
        folder = _folder_of(place)
        if not (folder / RunRecord.FILE).exists():
            raise RunFolderError(
                f"the run of {place} has not been started: there is no {folder / RunRecord.FILE}",
                fix=f"isentrope train {place}",
            )
        return folder
    if (place / RunRecord.FILE).exists():
        return place
    records = [*place.glob(f"*/{RunRecord.FILE}"), *place.glob(f"{RUNS}/*/{RunRecord.FILE}")]
    if not records:
        raise RunFolderError(
            f"{place.absolute()} is not a run folder (it has no {RunRecord.FILE}), and holds none",
            fix="give a run's folder, or its run file",
        )
    return max(records, key=lambda path: path.stat().st_mtime).parent


def _folder_of(run_file: Path) -> Path:
    """Return the folder of a run file's run."""
    values = read(run_file).values.get("run")
    run = values if isinstance(values, dict) else {}
    folder = run.get("output_dir") or RUNS / str(run.get("name", ""))
    return (run_file.parent / str(folder)).resolve()


def open_view(record: RunRecord, role: Role, *, deadline_s: float) -> RunView:
    """Return the run's view, with the rights of a role.

    Args:
        record: the run's.
        role: one of `redis_server.BESIDE_SOCKET`; by a URL without users of roles, the view has the URL's rights.
        deadline_s: longest wait for an answer.

    Raises:
        UnreachableError: its private broker is gone, or its broker does not answer.
        ConfigError: it has no broker, or its URL is not known.
    """
    if record.groups_of:
        raise ConfigError(
            f"run {record.run!r} has no broker: it trains the groups that {record.groups_of} has kept",
            fix=f"`isentrope status` shows it; `isentrope stop` ends it, on {record.host}",
        )
    if record.socket and not Path(record.socket).exists():
        raise UnreachableError(f"run {record.run!r} is not running: its private broker is gone")
    url = private_url(Path(record.socket), role) if record.socket else url_for(role, record)
    if not url:
        raise ConfigError(f"{record.url_env} is not set, and the run's broker is known by it alone", fix="set it")
    return RunView(Broker.connect(url, record.run, deadline_s=deadline_s, insecure=record.insecure))


def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()
