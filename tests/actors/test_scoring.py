"""Reward functions run in real processes: what happens when they hang, crash, print, or cannot be imported."""

import asyncio
import dataclasses
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from reward_driver import Driver, data, driving, rewards_of
from waits import until, wait_until, wait_until_gone

from isentrope.actors import scoring
from isentrope.actors.scoring import MAX_OUTPUT_BYTES, Scorer
from isentrope.errors import RewardError
from isentrope.rollout.data.rows import Row
from isentrope.rollout.rewards.functions import Outcome

REWARD = """
import os, pathlib, signal, subprocess, sys, time

print("imported in", os.getpid())

def f(completions, **columns):
    return [obey(completion) for completion in completions]

def obey(text):
    word, _, argument = text.partition(" ")
    match word:
        case "hang": print("going to sleep"); time.sleep(100_000)
        case "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100_000)
        case "meet": meet(*map(pathlib.Path, argument.split()))
        case "signal": os.kill(os.getpid(), int(argument))
        case "leave": os._exit(int(argument))
        case "raise": raise ValueError(argument)
        case "print": print(argument)
        case "flood": print("x" * int(argument))
        case "child": os.system(f"echo {argument}")
        case "stderr": print(argument, file=sys.stderr)
        case "input": input()
        case "start": start(argument)
        case "run": return float(subprocess.run([sys.executable, argument]).returncode)
        case "pid": return float(os.getpid())
    return float(len(text))

def start(path):
    "Starts a program and a copy of the process, which end by themselves as little as this one."
    program, copy = subprocess.Popen(["sleep", "100000"]), os.fork()
    if copy:
        pathlib.Path(path).write_text(f"{program.pid} {copy}")
    time.sleep(100_000)

def meet(mine, other):
    mine.touch()
    while not other.exists(): time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "obedient.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="module")
def driver(folder: Path) -> Iterator[Driver]:
    with driving(data(), folder) as driver:
        yield driver


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "reward_keeper" in " ".join(child.cmdline())]


def test_scores_come_back_and_the_users_code_stays_in_its_process(driver: Driver) -> None:
    assert driver.rewards("a", "bb") == [1.0, 2.0]
    assert driver.pid() != os.getpid()
    assert "obedient" not in sys.modules


def test_calls_of_many_tasks_get_their_own_scores(driver: Driver) -> None:
    async def many() -> list[list[float]]:
        return await asyncio.gather(*(driver.score("x" * i, "y") for i in range(50)))

    assert driver.run(many()) == [[float(i), 1.0] for i in range(50)]


def test_a_hanging_function_is_killed_at_the_deadline_and_replaced(driver: Driver) -> None:
    before = driver.pid()
    error = driver.late("hang")
    assert error.what == "the reward took more than 1 s, and its process was killed"
    assert "data.reward_timeout_s" in error.fix
    wait_until_gone(before)
    assert driver.pid() != before


def test_what_a_reward_has_started_ends_with_its_process(driver: Driver, tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def start() -> None:
        task = asyncio.create_task(driver.score(f"start {started}"))
        await until(lambda: started.exists() and started.read_text(), "what the reward has started")
        task.cancel()

    driver.run(start())
    wait_until_gone(*map(int, started.read_text().split()))
    assert driver.rewards("a") == [1.0]


@pytest.mark.slow
def test_a_function_deaf_to_sigterm_is_killed_too(driver: Driver) -> None:
    before = driver.pid()
    driver.late("deaf")
    wait_until_gone(before)
    assert driver.rewards("a") == [1.0]


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ("signal 9", "the reward ended its process (signal SIGKILL)"),
        ("signal 11", "the reward ended its process (signal SIGSEGV)"),
        ("leave 3", "the reward ended its process (exit code 3)"),
    ],
)
def test_a_crash_fails_its_call_only(driver: Driver, order: str, what: str) -> None:
    assert driver.refusal(order).what == what
    assert driver.rewards("a") == [1.0]


def test_an_exception_keeps_the_process(driver: Driver) -> None:
    before = driver.pid()
    error = driver.refusal("ok", "raise bad completion")
    assert error.what == "reward 'obedient:f' raised ValueError: bad completion"
    assert "obedient.py:" in error.where
    assert driver.pid() == before


def test_a_process_that_dies_between_two_calls_is_replaced(driver: Driver) -> None:
    before = driver.pid()
    os.kill(before, signal.SIGKILL)
    wait_until_gone(before)

    def rewards() -> list[float]:
        with suppress(RewardError):  # as long as the pool has not noticed; callers try such a call again
            return driver.rewards("a")
        return []

    assert wait_until(rewards, "a reward from another process") == [1.0]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == scoring.__name__]


def test_what_is_printed_before_a_hang_is_logged_and_a_cancelled_call_does_not_leave_its_process_working(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, scoring.__name__)
    before = driver.pid()

    async def cancel() -> None:
        task = asyncio.create_task(driver.score("hang"))
        await until(lambda: "reward: going to sleep" in logged(caplog), "what it prints")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    driver.run(cancel())
    wait_until_gone(before)
    assert driver.rewards("a") == [1.0]


def test_what_is_printed_is_logged_by_line_also_from_child_processes(
    driver: Driver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, scoring.__name__)
    driver.rewards("print one\ntwo", "child three", "stderr four")
    driver.settle()
    assert [f"reward: {word}" for word in ("one", "two", "three", "four")] == logged(caplog)
    assert capfd.readouterr() == ("", "")


def test_a_flood_is_cut_off_and_the_next_call_heard_again(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, scoring.__name__)
    driver.rewards("flood 1000000")
    driver.settle()
    driver.rewards("print again")
    driver.settle()
    lines = logged(caplog)
    assert sum(map(len, lines)) < MAX_OUTPUT_BYTES + 200
    assert sum("the rest is dropped" in line for line in lines) == 1
    assert lines[-1] == "reward: again"


def test_a_function_that_asks_for_input_gets_none(driver: Driver) -> None:
    assert "raised EOFError" in driver.refusal("input").what


def test_workers_work_at_the_same_time(folder: Path, tmp_path: Path) -> None:
    """Each of two calls ends only when the other has begun."""
    first, second = tmp_path / "first", tmp_path / "second"

    async def both() -> list[list[Outcome]]:
        async with Scorer(data(), str(folder), workers=2) as scorer:
            orders = (f"meet {first} {second}", f"meet {second} {first}")
            return await asyncio.gather(*(scorer.score(["p"], [order], {}) for order in orders))

    assert len(asyncio.run(both())) == 2


@pytest.mark.slow
def test_importing_takes_none_of_a_calls_time(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text(
        "import os, time; time.sleep(4)\ndef f(completions): return [os._exit(1) if completions == ['leave'] else 1.0]"
    )

    async def scores() -> None:
        async with Scorer(data("slow_import:f", reward_timeout_s=3.0), str(tmp_path)) as scorer:
            assert rewards_of(await scorer.score(["p"], ["a"], {})) == [1.0]
            with pytest.raises(RewardError, match="ended its process"):
                await scorer.score(["p"], ["leave"], {})
            assert rewards_of(await scorer.score(["p"], ["a"], {})) == [1.0]

    asyncio.run(scores())


@pytest.mark.parametrize(
    ("reward", "what"),
    [
        ("not_there:f", "cannot import 'not_there': ModuleNotFoundError"),
        ("obedient:g", "module 'obedient' has no function 'g'"),
        ("endless:f", "importing the reward functions took more than 2 s, and its process was killed"),
    ],
)
def test_what_cannot_be_imported_fails_at_entry_and_leaves_no_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reward: str, what: str
) -> None:
    (folder / "endless.py").write_text("import time; time.sleep(100_000)")
    if reward == "endless:f":
        monkeypatch.setattr(scoring, "_LOADING", dataclasses.replace(scoring._LOADING, seconds=2.0))
    before = {process.pid for process in workers_of(os.getpid())}

    async def enter() -> None:
        async with Scorer(data(reward), str(folder)):
            pass

    with pytest.raises(RewardError) as caught:
        asyncio.run(enter())
    assert caught.value.what.startswith(what)
    assert {process.pid for process in workers_of(os.getpid())} <= before


def test_programs_that_a_reward_starts_find_modules_beside_them(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "beside.py").touch()
    (tmp_path / "program.py").write_text("import beside")
    assert driver.rewards(f"run {tmp_path / 'program.py'}") == [0.0]


def test_the_probe_finds_a_column_the_data_lacks(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("def f(completions, answer): return [1.0 for _ in answer]")

    async def probe(**columns: object) -> None:
        async with Scorer(data("needy:f"), str(tmp_path)) as scorer:
            await scorer.probe(Row("p", columns, "train", "f:1"))

    asyncio.run(probe(answer="4"))
    with pytest.raises(RewardError, match=r"needs 'answer'") as caught:
        asyncio.run(probe(label="4"))
    assert caught.value.fix == 'set data.columns.answer = "label"'


OWNER = """
import asyncio, logging, signal, sys
from isentrope.actors.scoring import Scorer
from isentrope.rollout.config import DataConfig

async def main():
    data = DataConfig(train="train.jsonl", reward="obedient:f", reward_timeout_s=100_000)
    async with Scorer(data, sys.argv[1], workers=2) as scorer:
        pids = [(await scorer.score(["p"], ["pid"], {}))[0].reward for _ in range(2)]
        logging.basicConfig(level=logging.INFO, handlers=[Tell(pids)])
        await scorer.score(["p"], ["hang"], {})

class Tell(logging.Handler):
    "Prints the numbers of the processes once one of them hangs."

    def __init__(self, pids):
        super().__init__()
        self.pids = pids

    def emit(self, record):
        if "going to sleep" in record.getMessage():
            print(*map(int, self.pids), flush=True)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs in the background deaf to it
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_owner(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "owner.py").write_text(OWNER)
    command = [sys.executable, str(tmp_path / "owner.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(set(pids)) == 2 and all(map(psutil.pid_exists, pids))
        owner.send_signal(how)
        wait_until_gone(*pids)
        owner.kill()
