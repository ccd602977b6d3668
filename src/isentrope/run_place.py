"""The place of the run that a command is about: its folder or, from a machine that does not see it, its broker."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isentrope import runfolder
from isentrope.broker_url import requested
from isentrope.errors import ConfigError
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Place of a run, as options of a command name it.

    folder: its folder or run file, where no name is given. url, name, password_file, ca_file, insecure: its broker.
    """

    folder: Path
    url: str = ""
    name: str = ""
    password_file: str = ""
    ca_file: str = ""
    insecure: bool = False

    @property
    def run_folder(self) -> Path | None:
        """The run's folder; None: the run is named.

        Raises:
            ConfigError: a broker is given, and nothing names a run on it.
            RunFolderError: there is no run.
        """
        if self.url and not self.name:
            raise ConfigError(
                "--redis names a broker, and nothing names a run on it", fix="give the run's name by --run"
            )
        return None if self.name else runfolder.find(self.folder)

    def way(self, role: Role, *, deadline_s: float) -> "Way":
        """Return the way to the run's broker, with the rights of a role; a named run has those of its URL.

        Raises:
            ConfigError: as `run_folder`; or no broker is given, or its URL cannot be used.
            RunFolderError: there is no run, or its record is damaged.
        """
        if (folder := self.run_folder) is not None:
            record = runfolder.read_record(folder)
            return Way(record.run, lambda: runfolder.open_view(record, role, deadline_s=deadline_s))
        url = requested(self.url, self.password_file, self.ca_file)
        return Way(
            self.name,
            lambda: RunView(Broker.connect(url, self.name, deadline_s=deadline_s, insecure=self.insecure)),
        )


@dataclass(frozen=True, slots=True)
class Way:
    """Way to the broker of a run."""

    run: str
    """The run's name."""
    open: Callable[[], RunView]
    """Function that connects; UnreachableError if the broker does not answer."""
