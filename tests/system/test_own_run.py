"""A run of one's own: sixteen lines of TOML, own data and reward, a broker by URL, an actor that joined without Ray."""

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

from isentrope.demo.model import make_model
from isentrope.redis_server import RedisServer
from isentrope.rollout.data.tasks import open_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

RUN = """[run]
name = "mine"
[model]
path = "model"
dtype = "float32"
[data]
train = "walks.jsonl"
reward = "walk_rewards:reaches"
reward_timeout_s = 3600.0
[sampling]
max_new_tokens = 13
[actors]
count = 0
[learner]
prompts_per_batch = 8
batches = 10
"""

REWARD = '''
import itertools, pathlib, time
from isentrope.rollout.data.tasks import open_task

calls = itertools.count()

def reaches(prompts, completions, **columns):
    """The built-in verifier, as if it were one's own; for more than three batches it waits until it is allowed."""
    while next(calls) >= 3 * 8 and not pathlib.Path(__file__).with_name("allowed").exists():
        time.sleep(0.05)
    return open_task("digit_walk").verify(prompts=prompts, completions=completions, **columns)
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
    folder = tmp_path_factory.mktemp("own")
    assert RUN.count("\n") <= 16
    (folder / "run.toml").write_text(RUN)
    (folder / "walk_rewards.py").write_text(REWARD)
    task = open_task("digit_walk", seed=5)
    rows = [{"prompt": row.prompt, **row.columns} for row in map(task.train, range(64))]
    (folder / "walks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_model(folder / "model")
    with RedisServer() as server:
        url = {"ISENTROPE_REDIS_URL": server.start(folder / "broker")}

        def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "isentrope.cli", *arguments]
            return subprocess.run(command, cwd=folder, env=os.environ | url, capture_output=True, text=True)

        run = folder / "runs" / "mine"
        command = start("train", "run.toml", folder=folder, env=url)
        actor = start("actor", "--run", "mine", "--name", "guest", folder=folder, env=url)
        command.until(lambda: len(batches(run)) >= 2)
        status = json.loads(ask("status", "--json").stdout)
        switched = ask("mode", "on_policy")
        refused = ask("mode", "fast")
        (folder / "allowed").touch()
        code = command.wait(BOOT_S)
        left = actor.wait()
        secret = urlsplit(url["ISENTROPE_REDIS_URL"]).password or ""
        yield Seen(run, status, refused, switched, code, left, command.output, secret, ask("train", "run.toml"))


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
