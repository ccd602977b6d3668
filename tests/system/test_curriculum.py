"""A curriculum as a user makes it: scores by the model itself, then two files in shares and in the order of the scores,
served as promised by a run that is killed and continued."""

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from whole_commands import BOOT_S, Start, batches

from isentrope import init
from isentrope.config import load
from isentrope.learner.training.group_store import read_batch
from isentrope.rollout.data.prompts import encode, open_prompts
from isentrope.rollout.data.scores import Scores, read_scores
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.wire.types import Group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WEIGHTS = {"first": 3, "second": 1}
COUNTS = {"first": 20, "second": 6}

CHANGES = (
    'data.train={first = "first.jsonl", second = "second.jsonl"}',
    "data.mixture={first = 3, second = 1}",
    'data.eval={own = "eval.jsonl", greedy = {file = "eval.jsonl", samples = 1, temperature = 0.1, top_p = 0.9}}',
    "data.eval_prompts=4",
    "data.eval_samples=2",
    "actors.count=1",
    "sampling.group_size=4",
    "learner.prompts_per_batch=8",
    "learner.batches=6",
    "learner.checkpoint_every=2",
    "learner.retain=groups",
)


@dataclass
class Made:
    """A folder with scores, and a run of it that was killed and continued."""

    folder: Path
    run: Path
    scores: dict[str, Scores]
    again: str
    """What the same command of scores said."""
    groups: dict[int, Group]
    """Trained groups by their seq."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("curriculum") / "example"
    init.write("digit_walk", folder)
    with (folder / "train.jsonl").open() as rows:
        for name, count in COUNTS.items():
            (folder / f"{name}.jsonl").write_text("".join(islice(rows, count)))
    said = []
    for _ in range(2):
        command = start("score", "run.toml", *CHANGES, "--samples", "4", folder=folder)
        assert command.wait(BOOT_S) == 0, command.output
        said.append(command.output)
    scores = {name: read_scores(folder / f"{name}.scores.jsonl") for name in COUNTS}
    ordered = (*CHANGES, "data.order=scored:length_mean descending")
    run = folder / "runs" / "digit-walk"
    killed = start("train", "run.toml", *ordered, folder=folder)
    killed.until(lambda: len(batches(run)) >= 3)
    killed.send(signal.SIGKILL)
    killed.wait(BOOT_S)
    continued = start("train", "run.toml", *ordered, folder=folder)
    assert continued.wait(BOOT_S) == 0, continued.output
    files = sorted((run / "groups").glob("*-*"), key=lambda path: tuple(map(int, path.name.split("-"))))
    groups = {group.seq: group for path in files for group in read_batch(path).groups}
    yield Made(folder, run, {name: each for name, each in scores.items() if each is not None}, said[1], groups)


def test_scores_of_all_prompts_lie_beside_the_data(made: Made) -> None:
    for name, count in COUNTS.items():
        scores = made.scores[name]
        assert (len(scores), scores.facts["samples"]) == (count, 4)
        rates = [scores.value(index, "pass_rate") for index in range(count)]
        assert all(isinstance(rate, float) and 0 <= rate <= 1 and (4 * rate).is_integer() for rate in rates)
        assert all(scores.value(index, "length_mean") for index in range(count))
    assert "scores of 20 prompts" in made.again
    assert not list(made.folder.glob("*.part"))


def test_prompts_were_served_in_the_promised_order_over_a_kill(made: Made) -> None:
    changes = (*CHANGES, "data.order=scored:length_mean descending")
    config, file = load(made.folder / "run.toml", changes)
    prompts = open_prompts(config.data, run_folder=file.folder, seed=config.run.seed)
    tokenizer = load_tokenizer(str(made.folder / "model"))
    assert batches(made.run) == [1, 2, 3, 4, 5, 6] and len(made.groups) >= 48
    for seq, group in made.groups.items():
        row = prompts.train(seq)
        assert np.array_equal(group.prompt, encode(row, tokenizer)) and group.source == row.source
    for seq in range(60):
        drawn = [prompts.train(each).source for each in range(seq + 1)]
        assert all(abs(drawn.count(name) - (seq + 1) * WEIGHTS[name] / 4) < 1 for name in WEIGHTS)
    for name, count in COUNTS.items():
        places = [int(prompts.train(seq).where.rpartition(":")[2]) - 1 for seq in range(60)]
        own = [place for seq, place in enumerate(places) if prompts.train(seq).source == name][:count]
        lengths = [made.scores[name].value(place, "length_mean") for place in own]
        assert lengths == sorted(lengths, key=lambda each: -float(str(each)))


def test_figures_are_told_by_data_set_and_by_held_out_set(made: Made) -> None:
    rows = [json.loads(line) for line in (made.run / "metrics.jsonl").read_text().splitlines()]
    for table in ("entropy_by_source", "reward_by_source", "pass_rate_by_source"):
        named = [set(row["objective"][table]) for row in rows]  # a batch may hold one alone: groups are replaced
        assert all(named) and set.union(*named) == set(COUNTS)
    evaluations = [json.loads(line) for line in (made.run / "eval.jsonl").read_text().splitlines()]
    assert {(each["name"], each["samples"]) for each in evaluations} == {("own", 2), ("greedy", 1)}
    page = (made.run / "report.html").read_text()
    assert "data set first" in page and "held-out greedy" in page


def test_another_order_is_another_run(made: Made) -> None:
    command = ("train", "run.toml", *CHANGES, "learner.batches=7")
    told = subprocess.run(["isentrope", *command], cwd=made.folder, capture_output=True, text=True)
    assert told.returncode == 73 and "data.order" in told.stderr
