"""The example of README, written by `init`: own data and reward, a broker by URL, an actor that joined without Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from whole_commands import BOOT_S, Start, batches, lines

from isentrope import init
from isentrope.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CHANGES = (
    "data.reward=gated:reaches",
    "data.reward_timeout_s=3600.0",
    "data.eval_prompts=8",
    "data.eval_samples=2",
    "actors.count=0",
    "learner.prompts_per_batch=8",
    "learner.batches=10",
)
"""Of the example's run: small, and with a reward that waits."""

REWARD = '''
import itertools, pathlib, time
import rewards

calls = itertools.count()

def reaches(**columns):
    """The example's reward; after the first evaluation and three batches it waits until it is allowed."""
    while next(calls) >= 8 + 3 * 8 and not pathlib.Path(__file__).with_name("allowed").exists():
        time.sleep(0.05)
    return rewards.reaches(**columns)
'''


@dataclass
class Seen:
    """What was seen of the run."""

    run: Path
    status: dict[str, object]
    """While it trained."""
    refused: subprocess.CompletedProcess[str]
    """Answer to a mode that the objective does not allow, or that does not exist."""
    switched: subprocess.CompletedProcess[str]
    code: int
    actor_code: int
    output: str
    secret: str
    """The broker's password."""
    again: subprocess.CompletedProcess[str]
    """The same command when the run is finished."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("own") / "example"
    init.write("digit_walk", folder)
    (folder / "gated.py").write_text(REWARD)
    with RedisServer() as server:
        url = {"ISENTROPE_REDIS_URL": server.start(folder / "broker")}

        def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "isentrope.cli", *arguments]
            return subprocess.run(command, cwd=folder, env=os.environ | url, capture_output=True, text=True)

        run = folder / "runs" / "digit-walk"
        command = start("train", "run.toml", *CHANGES, folder=folder, env=url)
        actor = start("actor", "--run", "digit-walk", "--name", "guest", folder=folder, env=url)
        command.until(lambda: len(batches(run)) >= 2)
        status = json.loads(ask("status", "--json").stdout)
        switched = ask("mode", "on_policy")
        refused = ask("mode", "fast")
        (folder / "allowed").touch()
        code = command.wait(BOOT_S)
        left = actor.wait()
        secret = urlsplit(url["ISENTROPE_REDIS_URL"]).password or ""
        yield Seen(
            run, status, refused, switched, code, left, command.output, secret, ask("train", "run.toml", *CHANGES)
        )


def test_run_finishes_and_reports(seen: Seen) -> None:
    assert seen.code == 0, seen.output
    assert batches(seen.run) == list(range(1, 11))
    assert (seen.run / "report.html").exists() and (seen.run / "summary.json").exists()


def test_actor_joins_by_url_and_leaves_when_the_run_ends(seen: Seen) -> None:
    live = seen.status["live"]
    assert isinstance(live, dict) and [actor["id"] for actor in live["actors"]] == ["guest"]
    assert seen.actor_code == 0


def test_mode_changes_while_it_runs(seen: Seen) -> None:
    assert seen.switched.returncode == 0, seen.switched.stderr
    modes = [line["mode"] for line in lines(seen.run / "metrics.jsonl")]
    change = modes.index("on_policy")
    assert modes == ["async"] * change + ["on_policy"] * (len(modes) - change)
    assert all(line["lag_max"] == 0 for line in lines(seen.run / "metrics.jsonl")[change:])


def test_mode_that_does_not_exist_is_refused(seen: Seen) -> None:
    assert seen.refused.returncode == 64 and "there is no mode 'fast'" in seen.refused.stderr


def test_same_command_says_that_the_run_is_finished(seen: Seen) -> None:
    assert seen.again.returncode == 0 and "is finished" in seen.again.stdout


def test_broker_password_is_in_no_file_of_the_run(seen: Seen) -> None:
    assert seen.secret
    found = [path for path in seen.run.rglob("*") if path.is_file() and seen.secret.encode() in path.read_bytes()]
    assert found == [] and seen.secret not in seen.output
