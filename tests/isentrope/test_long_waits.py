"""A long wait has one line, wherever it waits."""

import asyncio
import io
import logging
import threading

import pytest
from rich.console import Console
from waits import wait_until

from isentrope import long_waits
from isentrope.console import working
from isentrope.long_waits import waiting_for

SAY_S = long_waits.SAY_S


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_waits, "SAY_S", 0.01)
    monkeypatch.setattr(long_waits, "_TOLD", long_waits._Told())


def test_a_line_comes_before_ten_seconds() -> None:
    assert SAY_S < 10


def test_a_thread_that_waits_tells_what_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), waiting_for("actor a1 to leave"):
        wait_until(lambda: caplog.messages == ["waiting for actor a1 to leave"], "the line")


def test_a_coroutine_that_waits_tells_what_for() -> None:
    told: list[tuple[str, str]] = []

    async def work() -> None:
        with waiting_for("the depot", lambda text: told.append((text, threading.current_thread().name))):
            while not told:
                await asyncio.sleep(0)

    asyncio.run(work())
    assert told == [("waiting for the depot", threading.current_thread().name)]


def test_a_wait_that_ends_early_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Timer] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            started.append(self)

    monkeypatch.setattr(threading, "Timer", Timer)
    with waiting_for("nothing"):
        assert [each.finished.is_set() for each in started] == [False]
    assert [each.finished.is_set() for each in started] == [True]


def test_many_that_wait_for_the_same_have_one_line() -> None:
    told: list[str] = []
    both = threading.Event()

    async def work(what: str) -> None:
        with waiting_for(what, told.append):
            while not both.is_set():
                await asyncio.sleep(0)
                if len(told) == 2:
                    both.set()

    async def together() -> None:
        await asyncio.gather(*(work("room at the broker") for _ in range(8)), work("another"))

    asyncio.run(together())
    assert sorted(told) == ["waiting for another", "waiting for room at the broker"]


def test_a_command_without_a_terminal_tells_it() -> None:
    out = io.StringIO()
    with working(Console(file=out), "the learner of r1") as show:
        show("not shown")
        wait_until(out.getvalue, "a line")
    assert out.getvalue() == "waiting for the learner of r1\n"


def test_a_command_whose_output_is_json_tells_it_beside(capsys: pytest.CaptureFixture[str]) -> None:
    out, errors = io.StringIO(), ""
    with working(Console(file=out, force_terminal=True), "the learner of r1", quiet=True):
        while not errors:
            errors = capsys.readouterr().err
    assert (out.getvalue(), errors) == ("", "waiting for the learner of r1\n")


def test_a_terminal_shows_it_at_once() -> None:
    out = io.StringIO()
    with working(Console(file=out, force_terminal=True, width=80), "a file of [red]") as show:
        show("a second one of [blue]")
        wait_until(lambda: "a second one of [blue]" in out.getvalue(), "the new text")
