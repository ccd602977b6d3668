"""The example of README, written by `init`: own data and reward, a broker by URL with a user for each role, and an
actor that joined without Ray and shares nothing with the run but the broker and the URL of its depot."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from machines import ROOT
from redis.connection import parse_url
from whole_commands import BOOT_S, Start, batches, free_port, lines

from isentrope import init
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import Role
from isentrope.rollout.depot.server import token_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CHANGES = (
    "data.reward=gated:reaches",
    "data.reward_timeout_s=3600.0",
    'data.reward_variables=["ALLOWED"]',
    "data.eval_prompts=8",
    "data.eval_samples=2",
    "actors.count=0",
    "learner.prompts_per_batch=8",
    "learner.batches=10",
    "learner.retain=groups",
)
"""Of the example's run: small, and with a reward that waits."""

REWARD = '''
import itertools, os, pathlib, time
import rewards

calls = itertools.count()

def reaches(**columns):
    """The example's reward; after the first evaluation and three batches it waits until it is allowed."""
    if "ALLOWED" in os.environ:
        pathlib.Path(os.environ["ALLOWED"] + ".environment").write_text(repr(dict(os.environ)))
    while next(calls) >= 8 + 3 * 8 and not pathlib.Path(os.environ["ALLOWED"]).exists():
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
    secrets: Mapping[str, str]
    """The broker's passwords by role, the depot's token that follows from one of them, and that of Ray."""
    private: Path
    """Folder of the passwords."""
    temporary: list[Path]
    """Files in the folder of Ray, while it ran, that hold a secret."""
    users: set[str]
    """Users of the broker that the run's processes were."""
    arguments: str
    """Command lines of all processes of the run."""
    variables: str
    """Environments of all processes of the run."""
    listeners: set[tuple[str, str]]
    """Kinds of its processes, and on what they listen."""
    environment: str
    """What a reward function found."""
    elsewhere: Path
    """Folder in which the actor was started; it found the run's empty."""
    told: str
    """What the actor printed."""
    unauthorized: int
    """Status of a request to the depot without the token."""
    again: subprocess.CompletedProcess[str]
    """The same command when the run is finished."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("own") / "example"
    init.write("digit_walk", folder)
    (folder / "gated.py").write_text(REWARD)
    elsewhere, allowed, port = folder.parent / "elsewhere", folder.parent / "allowed", free_port()
    elsewhere.mkdir()
    with RedisServer(run="digit-walk") as server:
        server.start(folder.parent / "broker")
        private, secrets = folder.parent / "private", _write_passwords(server, folder.parent / "private")
        place = f"{server.socket}?db=0"
        url = {"ISENTROPE_REDIS_URL": f"unix://{place}", "ALLOWED": str(allowed)}

        def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "isentrope.cli", *arguments]
            return subprocess.run(command, cwd=folder, env=os.environ | url, capture_output=True, text=True)

        run = folder / "runs" / "digit-walk"
        changes = (*CHANGES, f"weights.serve=127.0.0.1:{port}", f"redis.passwords={private}")
        command = start("train", "run.toml", *changes, folder=folder, env=url)
        depot = ("--depot", f"http://127.0.0.1:{port}", "--cache", str(elsewhere / "cache"))
        broker = ("--redis", f"unix://actor@{place}", "--password-file", str(private / "actor.password"))
        join = ("actor", "--run", "digit-walk", "--name", "guest", *depot, *broker)
        actor = start(*join, folder=elsewhere, env=url | {"HOME": str(elsewhere)}, hidden=folder)
        command.until(lambda: len(batches(run)) >= 2)
        status = json.loads(ask("status", "--json").stdout)
        arguments = "\n".join(command.arguments() + actor.arguments())
        variables = [each for started in (command, actor) for each in started.environments()]
        (ray,) = {Path(each["RAY_AUTH_TOKEN_PATH"]) for each in variables if "RAY_AUTH_TOKEN_PATH" in each}
        secrets |= {"depot": token_of(secrets["actor"], "digit-walk"), "ray": ray.read_text()}
        temporary = [path for path in _with_secrets(ray.parent, secrets) if path != ray]
        with redis.Redis.from_url(server.url, protocol=2) as admin:
            users = {client["user"] for client in admin.client_list()} - {"default"}
        listeners = command.listeners() | {("the engine", place) for _, place in actor.listeners()}
        unauthorized = _status(f"http://127.0.0.1:{port}/{next(run.glob('bundle/*')).relative_to(run)}")
        switched = ask("mode", "on_policy")
        refused = ask("mode", "fast")
        allowed.touch()
        code = command.wait(BOOT_S)
        left = actor.wait()
        yield Seen(
            run=run,
            status=status,
            refused=refused,
            switched=switched,
            code=code,
            actor_code=left,
            output=command.output,
            secrets=secrets,
            private=private,
            temporary=temporary,
            users=users,
            arguments=arguments,
            variables=str(variables),
            listeners=listeners,
            environment=Path(f"{allowed}.environment").read_text(),
            elsewhere=elsewhere,
            told=actor.output,
            unauthorized=unauthorized,
            again=ask("train", "run.toml", *changes),
        )


def _write_passwords(server: RedisServer, folder: Path) -> dict[str, str]:
    """Write the passwords of a server's users as `make-acl.sh` does, and return them."""
    folder.mkdir(mode=0o700)
    passwords = {role.value: str(parse_url(server.url_of(role))["password"]) for role in Role}
    for role, password in passwords.items():
        (folder / f"{role}.password").write_text(password)
    return passwords


def _with_secrets(folder: Path, secrets: Mapping[str, str]) -> list[Path]:
    """Return the files below a folder that hold a secret; those that go meanwhile do not."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            content = path.read_bytes() if path.is_file() else b""
            found += [path] * any(secret.encode() in content for secret in secrets.values())
    return found


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_run_finishes_and_reports(seen: Seen) -> None:
    assert seen.code == 0, seen.output
    assert batches(seen.run) == list(range(1, 11))
    assert (seen.run / "report.html").exists() and (seen.run / "summary.json").exists()


def test_actor_joins_by_url_and_leaves_when_the_run_ends(seen: Seen) -> None:
    live = seen.status["live"]
    assert isinstance(live, dict) and [actor["id"] for actor in live["actors"]] == ["guest"]
    assert seen.actor_code == 0


def test_the_actor_had_nothing_but_the_broker_and_the_depot(seen: Seen) -> None:
    (unpacked,) = (seen.elsewhere / "cache" / "digit-walk" / "bundle").iterdir()
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert {"run/gated.py", "run/rewards.py", "run/train.jsonl", "run/eval.jsonl", "model/config.json"} <= there
    assert not any("safetensors" in name for name in there), "weights come by version"
    assert list((seen.elsewhere / "cache" / "digit-walk" / "weights").iterdir()), seen.told
    assert "serves version" in seen.told


def test_the_depot_answers_nobody_without_the_token(seen: Seen) -> None:
    assert seen.unauthorized == 401


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


OPEN = """
import json, sys
from isentrope import environment
environment.set_defaults(offline=True)
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams
from isentrope.learner.training.model import load_policy

folder, *texts = sys.argv[1:]
if __name__ == "__main__":
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(text) for text in texts]
    engine = LLM(folder, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**28)  # "auto" halves float32
    asked = [{"prompt_token_ids": each} for each in ids]
    answers = engine.generate(asked, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    gaps = []
    for each, answer in zip(ids, answers, strict=True):
        with torch.no_grad():
            logp = model(torch.tensor([each])).logits[0].log_softmax(-1)
        for place, token in enumerate(each[1:]):
            gaps.append(abs(answer.prompt_logprobs[place + 1][token].logprob - float(logp[place, token])))
    policy = load_policy(folder, dtype=torch.float32, device=torch.device("cpu"), gradient_checkpointing=False)
    begun = policy.network.state_dict()
    same = all(torch.equal(value, begun[name]) for name, value in model.state_dict().items())
    print(json.dumps({"gap": max(gaps), "tokens": len(gaps), "same": same}))
"""


def test_the_model_it_leaves_is_one_in_transformers_in_vllm_and_for_the_next_run(seen: Seen) -> None:
    final = seen.run / "final"
    walks = [json.loads(line)["prompt"] for line in (seen.run.parents[1] / "train.jsonl").read_text().splitlines()[:8]]
    command = [sys.executable, "-c", OPEN, str(final), *walks]
    opened = subprocess.run(command, cwd=seen.run, capture_output=True, text=True, check=True)
    found = json.loads(opened.stdout.splitlines()[-1])
    assert found["same"] and found["tokens"] >= 56
    assert found["gap"] <= 1e-5
    newest = max(seen.run.glob("weights/*/*.safetensors"), key=lambda path: int(path.parent.name))
    assert (final / "model.safetensors").read_bytes() == newest.read_bytes()
    begun = seen.run.parents[1] / "model" / "model.safetensors"
    assert newest.read_bytes() != begun.read_bytes()


def test_the_next_stage_begins_with_what_it_leaves(seen: Seen, start: Start) -> None:
    """The engine was started with the model that the first run began with."""
    final = (seen.run / "final" / "model.safetensors").read_bytes()
    own = ("run.name=next", "data.reward=rewards:reaches", "actors.count=1", "sampling.max_new_tokens=20")
    stage = ("--from", str(seen.run), "learner.batches=1")
    command = start("train", "run.toml", *CHANGES, *own, *stage, folder=seen.run.parents[1])
    assert command.wait(2 * BOOT_S) == 0, command.output
    run = seen.run.with_name("next")
    (line,) = lines(run / "metrics.jsonl")
    assert line["updates"] == 2 and line["grad_norm"] > 0 and line["logp_gap_mean"] < 1e-5
    first, second = sorted(run.glob("weights/*/*.safetensors"), key=lambda path: int(path.parent.name))
    assert first.read_bytes() == final != second.read_bytes()
    assert json.loads((run / "begun_from.json").read_text())["run"] == str(seen.run.resolve())


def test_another_method_trains_on_the_groups_that_it_has_kept(seen: Seen) -> None:
    folder, run = seen.run.parents[1], seen.run.with_name("again")
    own = ("run.name=again", "learner.method=grpo", "learner.objective.tokens=none", "--only", "train")
    for count in (3, 5):  # the second goes on
        command = (
            "train",
            str(folder / "run.toml"),
            *CHANGES,
            *own,
            "--groups",
            str(seen.run),
            f"learner.batches={count}",
        )
        trained = _command(*command)
        assert trained.returncode == 0 and f"finished after {count} batches" in trained.stdout, trained.stderr
        assert len(lines(run / "metrics.jsonl")) == count
    theirs, ours = lines(seen.run / "metrics.jsonl"), lines(run / "metrics.jsonl")
    for name in ("reward", "responses", "lag_hist"):
        assert [line[name] for line in ours] == [line[name] for line in theirs[:5]]
    assert (run / "final" / "model.safetensors").read_bytes() != (seen.run / "final" / "model.safetensors").read_bytes()
    status = json.loads(_command("status", str(run), "--json").stdout)
    assert "has no broker: it trains the groups that" in status["unreachable"]


def test_what_it_leaves_is_exported_and_evaluated_by_command(seen: Seen, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    exported = _command("export", str(seen.run), str(folder))
    assert exported.returncode == 0, exported.stderr
    assert (folder / "model.safetensors").read_bytes() == (seen.run / "final" / "model.safetensors").read_bytes()
    assert _command("export", str(seen.run), str(folder)).returncode == 64
    figures = _command("eval", str(seen.run), "--json", "data.eval_prompts=4", "--samples=2")
    assert figures.returncode == 0, figures.stderr
    told = json.loads(figures.stdout)
    assert told["prompts"] == 4 and 0 <= told["pass_at"]["1"] <= told["pass_at"]["2"] <= 1


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isentrope", *arguments]
    return subprocess.run(command, env=os.environ | {"ISENTROPE_REDIS_URL": ""}, capture_output=True, text=True)


def test_the_settings_in_the_folder_are_those_of_the_run(seen: Seen) -> None:
    told = _command("train", str(seen.run / "run.toml"))
    assert told.returncode == 0 and f"the run in {seen.run} is finished" in told.stdout, told.stderr


def test_secrets_are_nowhere_but_in_their_files(seen: Seen) -> None:
    """The run's folder, the bundle, what was unpacked from it, the report and all logs, those of the broker and of Ray
    included; what the commands print; argument lists; the environments of all processes, with that of rewards."""
    assert len(set(seen.secrets.values())) == len(Role) + 2 and all(seen.secrets.values())
    assert {path.name for path in _with_secrets(seen.private, seen.secrets)} == {f"{role}.password" for role in Role}
    assert seen.temporary == []
    for folder in (seen.run.parents[1], seen.elsewhere, seen.private.parent / "broker"):
        assert _with_secrets(folder, seen.secrets) == []
    texts = (seen.output, seen.told, seen.again.stdout, seen.switched.stdout, str(seen.status))
    assert "ALLOWED" in seen.environment and "ALLOWED" in seen.variables
    for text in (*texts, seen.arguments, seen.variables, seen.environment):
        assert [name for name, secret in seen.secrets.items() if secret in text] == []


def test_each_process_is_the_brokers_user_of_its_role(seen: Seen) -> None:
    assert seen.users == {Role.COMMAND, Role.LEARNER, Role.ACTOR}


def test_everything_listens_where_the_page_says(seen: Seen) -> None:
    page = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    page = page.partition("## What listens where")[2].partition("##")[0]
    told = {tuple(cell.strip() for cell in row.split("|")[1:3]) for row in page.splitlines() if row.startswith("| ")}
    assert {("Ray's servers and workers", "all interfaces"), ("the command", "loopback")} <= seen.listeners
    assert seen.listeners <= told


def test_the_runs_folder_is_its_users_alone(seen: Seen) -> None:
    assert seen.run.stat().st_mode & 0o777 == 0o700
