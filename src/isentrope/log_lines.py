"""The command `logs`: the last lines of every log of a run, and those that are added."""

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from isentrope import runfolder
from isentrope.console import say
from isentrope.errors import RunFolderError

LOOK_S = 0.5


def show_logs(place: Path, name: str, lines: int, follow: bool, console: Console) -> int:
    """Print the last lines of each log with its name before them; `follow`: until the run ends.

    Raises:
        RunFolderError: there is no run, or none of its logs has this name.
    """
    folder = runfolder.find(place)
    runfolder.read_record(folder)
    logs = Logs(folder / "logs", name)
    if name and not logs.names():
        known = ", ".join(Logs(folder / "logs", "").names()) or "there are none yet"
        raise RunFolderError(f"{folder} has no log {name!r}", fix=f"one of {known}")
    for log, line in logs.last(lines):
        _print(log, line, console)
    while follow:
        alive = runfolder.is_held(folder)  # first: what a run writes at its end is shown
        for log, line in logs.more():
            _print(log, line, console)
        if not alive:
            break
        time.sleep(LOOK_S)
    return 0


class Logs:
    """The logs of one folder, also those that appear later."""

    def __init__(self, folder: Path, name: str) -> None:
        """Read from the beginning; `name`: of one log without `.log`, empty: all."""
        self._folder = folder
        self._name = name
        self._offsets: dict[Path, int] = {}
        self._refused: set[Path] = set()

    def names(self) -> list[str]:
        """Return the names of the logs that exist."""
        return [path.stem for path in self._paths()]

    def last(self, lines: int) -> Iterator[tuple[str, str]]:
        """Yield the last whole lines of each log, and go on behind them."""
        for path in self._paths():
            yield from ((path.stem, line) for line in deque(self._read(path), maxlen=lines))

    def more(self) -> Iterator[tuple[str, str]]:
        """Yield the lines that were finished since the last call."""
        for path in self._paths():
            yield from ((path.stem, line) for line in self._read(path))

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name or '*'}.log"))

    def _read(self, path: Path) -> Iterator[str]:
        """Yield the new lines of a log; of one that cannot be read, once, why."""
        try:
            yield from self._new(path)
        except OSError as error:
            if path not in self._refused:
                yield f"{path} cannot be read: {error.strerror}"
            self._refused.add(path)

    def _new(self, path: Path) -> Iterator[str]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offsets[path] = self._offsets.get(path, 0) + len(line)
                yield line.decode(errors="replace").rstrip("\n")


def _print(log: str, line: str, console: Console) -> None:
    say(console, f"{log}: {line}")
