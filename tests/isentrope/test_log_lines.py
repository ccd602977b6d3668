"""The last lines of every log, and those that are added, each once and whole."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from run_states import run_in

from isentrope.errors import RunFolderError
from isentrope.log_lines import Logs, show_logs


def _shown(folder: Path, name: str = "", lines: int = 2, *, follow: bool = False) -> list[str]:
    out = io.StringIO()
    assert show_logs(folder, name, lines, follow, Console(file=out, width=20)) == 0
    return out.getvalue().splitlines()


@pytest.mark.parametrize("state", ["running", "finished", "stopped", "error", "dead"])
def test_each_log_is_shown_by_its_name(tmp_path: Path, state: str) -> None:
    with run_in(state, tmp_path / "run") as folder:
        (folder / "logs" / "learner-0.log").write_text("one\ntwo [bold]\nthree, which is longer than a console\n")
        (folder / "logs" / "command.log").write_text("begins\ncut o")
        long = "learner-0: three, which is longer than a console"
        assert _shown(folder) == ["command: begins", "learner-0: two [bold]", long]
        assert _shown(folder, "command") == ["command: begins"]
        with pytest.raises(RunFolderError) as raised:
            _shown(folder, "actor-a1")
        assert "command, learner-0" in raised.value.fix
        if state != "running":
            assert _shown(folder, follow=True) == _shown(folder)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with run_in("damaged", tmp_path / "run") as folder, pytest.raises(RunFolderError, match="damaged"):
        _shown(folder)


def test_what_is_added_is_read_once_and_whole(tmp_path: Path) -> None:
    logs, path = Logs(tmp_path, ""), tmp_path / "a.log"
    path.write_text("1\n2\n3")
    assert list(logs.last(1)) == [("a", "2")]
    with path.open("a") as file:
        file.write("3\n")
    (tmp_path / "b.log").write_text("new\n")
    assert list(logs.more()) == [("a", "33"), ("b", "new")]
    assert list(logs.more()) == []
