"""Whole runs: a real broker, two real ranks with DeepSpeed, and an actor that samples from what they publish.

Runs that several tests look at are made once. What is promised: every issued group is trained once or retired, an
on-policy run is the same every time, also if it was killed in between, and an operator is obeyed.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_run import Launched, dump, launch, rows
from waits import wait_until
from whole_run import Run

from isentrope.capacity.sizes import Shape, group_bytes
from isentrope.learner.training.fault_points import VARIABLE
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.config import WeightsConfig
from isentrope.rollout.wire.control import Control, Mode, RunState
from isentrope.rollout.wire.types import batch_of
from isentrope.rollout.wire.weights import verify, version_folder

pytestmark = pytest.mark.slow


STEERED: dict[str, Any] = {
    "mode": "on_policy",
    "batches": 5,
    "objective": {"control": [{"kind": "entropy_step", "target": 50.0, "delta": 1e-4, "high": 1.0}]},
}
"""A controller that acts in every update: what a checkpoint forgets of it shows in the next batch."""


@pytest.fixture(scope="module")
def on_policy(new_run: Callable[..., Run]) -> Run:
    """An undisturbed run."""
    return new_run(**STEERED).to_the_end()


@pytest.fixture(scope="module")
def lagging(new_run: Callable[..., Run]) -> Run:
    """An undisturbed run with several updates per batch."""
    return new_run(mode="async", batches=8, tensorboard=True, eval_every=4, learning_rate=3e-3).to_the_end()


def stable(row: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in equal runs."""
    return {name: value for name, value in row.items() if name not in ("time", "process")}


def repeated(row: dict[str, Any]) -> dict[str, Any]:
    """What must be equal when a batch is trained again by a later learner, which finds more orders out, and to which no
    token of the earlier one is of its own version."""
    differs = ("version", "issued", "retired", "untrained")
    kept = {name: value for name, value in stable(row).items() if name not in differs}
    measured = {name: value for name, value in row["objective"].items() if name != "logp_gap_fresh"}
    return kept | {"objective": measured}


def test_a_run_trains_every_group_once_and_says_so(lagging: Run) -> None:
    assert lagging.accounts_for_every_group()
    assert (lagging.outcome["status"], lagging.outcome["exit_code"], lagging.outcome["batches"]) == ("finished", 0, 8)
    assert lagging.outcome["trained"] == 8 * lagging.job.config.prompts_per_batch
    assert [row["batch"] for row in lagging.rows] == list(range(1, 9))
    assert {row["updates"] for row in lagging.rows} == {2}
    control = lagging.view.control()
    assert control is not None and (control.state, control.goes_on) == (RunState.STOP, False)


def test_a_run_learns(lagging: Run) -> None:
    rewards = [row["reward"] for row in lagging.rows]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.1
    assert max(row["logp_gap_max"] for row in lagging.rows if row["lag_max"] == 0) < 1e-5


def test_lags_stay_within_the_admission_bound(lagging: Run) -> None:
    assert max(row["lag_max"] for row in lagging.rows) <= lagging.job.config.staleness.max_lag


def test_held_out_prompts_are_answered_before_between_and_after(lagging: Run) -> None:
    evaluations = rows(lagging.folder / "eval.jsonl")
    assert [row["batch"] for row in evaluations] == [0, 4, 8]
    assert all(row["pass_at"].keys() == {"1", "2", "4"} for row in evaluations)
    assert evaluations[-1]["reward"] > evaluations[0]["reward"]
    samples = rows(lagging.folder / "samples.jsonl")
    assert {sample["batch"] for sample in samples} == {0, 4, 8}
    assert all(len(sample["tokens"]) == len(sample["entropy"]) > 0 for sample in samples)
    assert samples[0]["prompt"].startswith("<bos>")


def test_only_what_is_needed_stays_on_the_disk(lagging: Run) -> None:
    assert sorted(path.name for path in (lagging.folder / "checkpoints").glob("step-*")) == ["step-6-1", "step-8-1"]
    assert len(list((lagging.folder / "weights").iterdir())) <= lagging.job.weights.keep + 1
    assert not list(lagging.folder.rglob("*.tmp"))
    assert list((lagging.folder / "tensorboard").glob("events.*"))


def test_on_policy_trains_no_token_of_another_version(on_policy: Run) -> None:
    assert on_policy.accounts_for_every_group()
    assert {row["lag_max"] for row in on_policy.rows} == {0}
    assert {row["updates"] for row in on_policy.rows} == {1}
    assert all(row["ratio_max"] == pytest.approx(1.0, abs=1e-6) for row in on_policy.rows)
    assert on_policy.outcome["retired"] == {}


def test_an_on_policy_run_is_the_same_every_time(on_policy: Run, new_run: Callable[..., Run]) -> None:
    again = new_run(**STEERED).to_the_end()
    assert [stable(row) for row in again.rows] == [stable(row) for row in on_policy.rows]
    assert again.weights == on_policy.weights


def test_groups_of_one_outcome_are_replaced_the_same_way_every_time(new_run: Callable[..., Run]) -> None:
    mixed = {"filter": [{"kind": "mixed_groups", "by": "correct", "refill": 5}]}
    runs = [new_run(mode="on_policy", batches=4, learning_rate=3e-3, objective=mixed) for _ in range(2)]
    assert runs[1].start(**{VARIABLE: "commit.before_manifest:2"}).wait() != 0
    for run in runs:
        run.to_the_end()
        assert run.accounts_for_every_group()
        assert run.outcome["retired"].keys() & {"all_correct", "none_correct"}
        assert all(row["kept"] == 1 and row["groups"] == 4 for row in run.rows)
        assert any(row["process"]["pass_rate_drawn"] != row["pass_rate"] for row in run.rows)
    first, again = runs
    assert [repeated(row) for row in first.rows] == [repeated(row) for row in again.rows]
    assert first.weights == again.weights


def test_a_graded_run_judges_groups_by_their_rewards_and_has_no_pass_rate(new_run: Callable[..., Run]) -> None:
    objective = {"filter": [{"kind": "mixed_groups", "refill": 5}]}
    run = new_run(ranks=1, batches=3, eval_every=3, updates_per_batch=1, objective=objective)
    data = run.job.spec.data.model_copy(update={"correct": "nothing"})
    run.job = replace(run.job, spec=run.job.spec.model_copy(update={"data": data}))
    run.to_the_end()
    assert run.outcome["retired"].keys() <= {"same_reward", "surplus"}
    for row in run.rows:
        assert "pass_rate" not in row and row["objective"]["groups_same_reward"] == 0
        assert row["rewards"][data.train]["mean"] == pytest.approx(row["reward"], rel=1e-6)
    assert all(row["pass_at"] == {} and row["reward"] > 0 for row in rows(run.folder / "eval.jsonl"))
    assert all("correct" not in sample for sample in rows(run.folder / "samples.jsonl"))


def test_a_run_that_was_killed_before_its_checkpoint_counts_repeats_the_same_batches(
    on_policy: Run, new_run: Callable[..., Run]
) -> None:
    run = new_run(**STEERED)
    assert run.start(**{VARIABLE: "commit.before_pointer:4"}).wait() != 0
    assert not (run.folder / "outcome.json").exists()
    run.to_the_end()
    assert run.accounts_for_every_group()
    assert run.outcome["incarnation"] == 2
    assert [repeated(row) for row in run.rows[:4]] == [repeated(row) for row in on_policy.rows[:4]]
    assert run.rows[3]["version"] >> 20 == 2, "batch 4 was trained twice"
    coefficients = [row["objective"]["control"]["entropy_step"] for row in run.rows]
    assert coefficients == [row["objective"]["control"]["entropy_step"] for row in on_policy.rows]
    assert len(set(coefficients)) == len(coefficients)


def test_an_on_policy_run_with_kills_ends_with_the_weights_of_the_undisturbed_one(
    on_policy: Run, new_run: Callable[..., Run]
) -> None:
    """The ranks die in the middle of a batch that has no plan yet, and before a checkpoint."""
    run = new_run(**STEERED)
    run.actor.last = run.job.config.prompts_per_batch + 2
    ranks = run.start()
    wait_until(lambda: run.actor.served == run.actor.last, ranks.text)
    ranks.kill()
    run.actor.last = None
    assert run.start(**{VARIABLE: "commit.before_manifest:4"}).wait() != 0
    run.to_the_end()
    assert run.accounts_for_every_group()
    assert (run.outcome["incarnation"], run.outcome["retired"]) == (3, {})
    assert [repeated(row) for row in run.rows] == [repeated(row) for row in on_policy.rows]
    assert run.weights == on_policy.weights


@pytest.fixture(scope="module")
def killed(new_run: Callable[..., Run]) -> Run:
    """A run that keeps its groups, and whose ranks die between a checkpoint and its commit, and in the next one."""
    run = new_run(mode="async", batches=6, retain="groups")
    assert run.start(**{VARIABLE: "commit.before_script:4"}).wait() != 0
    assert run.start(**{VARIABLE: "commit.before_manifest:6"}).wait() != 0
    return run.to_the_end()


def test_a_run_that_was_killed_before_the_broker_forgets_trains_nothing_twice(killed: Run) -> None:
    assert killed.accounts_for_every_group()
    assert [row["version"] >> 20 for row in killed.rows] == [1, 1, 1, 1, 3, 3]


def test_an_asynchronous_run_with_kills_is_its_own_replay_to_the_bit(killed: Run, tmp_path: Path) -> None:
    kept = {path.name for path in (killed.folder / "groups").iterdir()}
    assert kept == {"1-1", "2-1", "3-1", "4-1", "5-2", "6-2", "5-3", "6-3"}
    assert _parting(killed, tmp_path) == {"goal": "step-6-3", "first": 1, "parting": None}


def test_a_killed_run_with_demonstrations_trains_them_and_is_its_own_replay_to_the_bit(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(mode="async", method="luffy", batches=4, retain="groups", shows=True)
    assert run.start(**{VARIABLE: "commit.before_manifest:4"}).wait() != 0
    run.to_the_end()
    assert run.accounts_for_every_group()
    for row in run.rows:
        measures = row["objective"]
        assert (row["responses"], measures["demonstrations"]) == (16, 4)
        assert 0 < measures["demonstration_share"] < 1 and measures["demonstration_nll"] > 0
        assert row["lag_hist"].keys() <= {"0", "1", "2"} and measures["loss_aux_shaped_demonstration"] != 0
    assert _parting(run, tmp_path) == {"goal": "step-4-2", "first": 1, "parting": None}


def _parting(run: Run, folder: Path) -> dict[str, Any]:
    """Replay a whole run by two ranks of their own."""
    (folder / "job.json").write_text(dump(replace(run.job, url="")))
    arguments = [str(folder / "job.json"), str(run.folder), str(folder), str(folder / "found.json")]
    ranks = launch("rank_replay.py", arguments, folder / "log.txt")
    assert ranks.wait() == 0, ranks.text()
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def test_a_kill_while_a_version_is_published_leaves_none_announced_that_is_not_whole(
    new_run: Callable[..., Run],
) -> None:
    run = new_run(mode="async", ranks=1, batches=5)
    for batch, place in enumerate(("copied", "written", "before_manifest", "before_announcement"), 1):
        assert run.start(**{VARIABLE: f"publish.{place}:{batch}"}).wait() != 0
        announced = run.view.weights()
        assert announced is not None and announced.batch < batch
        verify(announced.model_copy(update={"folder": str(version_folder(run.folder, announced.version))}))
    run.to_the_end()
    assert run.accounts_for_every_group()
    assert batch_of(run.outcome["version"]) == 5


def await_rows(run: Run, wanted: Callable[[list[dict[str, Any]]], bool], ranks: Launched) -> None:
    def come() -> bool:
        assert ranks.runs, ranks.text()
        journal = run.folder / "metrics.jsonl"
        return journal.exists() and journal.read_bytes().endswith(b"\n") and wanted(run.rows)

    wait_until(come, ranks.text, poll_s=0.1)


def test_a_checkpoint_comes_early_when_the_groups_fill_the_budget(new_run: Callable[..., Run]) -> None:
    """Else nothing would be issued any more, and nothing would ever free the broker."""
    run = new_run(mode="async", batches=8, checkpoint_every=1000)
    spec, config = run.job.spec, run.job.config
    size = group_bytes(Shape(spec.sampling.group_size, 32, spec.sampling.max_new_tokens))
    ahead = (config.staleness.max_lag + 1) * config.prompts_per_batch * size
    assert ahead < config.batches * config.prompts_per_batch * size / 2, "the whole run does not fit"
    run.job = replace(run.job, spec=spec.model_copy(update={"max_bytes": ahead}))
    run.to_the_end()
    assert run.outcome["status"] == "finished" and run.accounts_for_every_group()


def test_an_operator_changes_the_mode_and_stops_the_run(new_run: Callable[..., Run]) -> None:
    run = new_run(mode="async", batches=10**6, checkpoint_every=100)
    ranks = run.start()
    await_rows(run, lambda rows: len(rows) >= 2, ranks)
    run.view.request("on_policy")
    await_rows(run, lambda rows: rows[-1]["mode"] == "on_policy", ranks)
    ranks.kill()  # no checkpoint has the mode
    ranks = run.start()
    await_rows(run, lambda rows: (rows[-1]["mode"], rows[-1]["version"] >> 20) == ("on_policy", 2), ranks)
    run.view.request("stop")
    assert ranks.wait() == 0, ranks.text()
    switched = [row for row in run.rows if row["mode"] == "on_policy"]
    assert {row["lag_max"] for row in switched} == {0}
    assert {row["updates"] for row in switched} == {1}
    assert run.outcome["status"] == "stopped"
    stopped_at = run.outcome["batches"]
    assert stopped_at == run.rows[-1]["batch"]
    assert (run.folder / "checkpoints" / f"step-{stopped_at}-2").is_dir()

    run.job = replace(run.job, config=run.job.config.model_copy(update={"ranks": 1}))
    ranks = run.start()
    await_rows(run, lambda rows: len(rows) > stopped_at + 1, ranks)
    assert run.rows[-1]["mode"] == "on_policy", "the mode is part of the run's state"
    run.view.request("stop")
    assert ranks.wait() == 0, ranks.text()
    assert [row["process"]["ranks"] for row in run.rows] == [2] * stopped_at + [1] * (len(run.rows) - stopped_at)
    assert "1 ranks continue what 2 ranks began" in ranks.text()
    assert not (run.folder / "checkpoints" / "converted").exists()
    assert [row["batch"] for row in run.rows] == list(range(1, run.outcome["batches"] + 1))


def test_a_stop_is_heard_during_an_evaluation_which_the_same_command_makes_up_for(new_run: Callable[..., Run]) -> None:
    run = new_run(mode="async", ranks=1, batches=1)
    run.actor.answers.clear()
    ranks = run.start()
    wait_until(lambda: run.view.control() is not None and run.view.queues()["eval"] > 0, "an evaluation", poll_s=0.1)
    run.view.request("stop")
    assert ranks.wait() == 0, ranks.text()
    assert (run.outcome["status"], run.outcome["batches"]) == ("stopped", 0)
    assert not (run.folder / "eval.jsonl").exists()
    assert (control := run.view.control()) is not None and control.goes_on
    run.actor.answers.set()
    run.to_the_end()
    assert run.outcome["status"] == "finished"
    assert [row["batch"] for row in rows(run.folder / "eval.jsonl")] == [0, 1]


def test_a_stop_is_heard_while_an_actor_does_not_load_a_version(new_run: Callable[..., Run]) -> None:
    run = new_run(mode="on_policy", ranks=1, batches=2)
    run.actor.follows.clear()
    ranks = run.start()
    wait_until(lambda: (found := run.view.weights()) is not None and found.batch == 1, ranks.text, poll_s=0.1)
    run.view.request("stop")
    assert ranks.wait() == 0, ranks.text()
    assert (run.outcome["status"], run.outcome["batches"]) == ("stopped", 1)
    assert [row["batch"] for row in run.rows] == [1], "what was trained is written down"
    assert run.outcome["issued"] == run.job.config.prompts_per_batch, "nothing is ordered of a version nobody serves"
    run.actor.follows.set()
    run.to_the_end()
    assert run.outcome["status"] == "finished" and [row["batch"] for row in run.rows] == [1, 2]
    assert run.accounts_for_every_group()


def test_a_mode_in_which_the_method_would_do_nothing_is_refused(new_run: Callable[..., Run]) -> None:
    run = new_run(mode="async", method="kl_cov", batches=10**6)
    run.job = replace(run.job, weights=WeightsConfig(publish_every=3))
    ranks = run.start()
    await_rows(run, lambda rows: len(rows) >= 1, ranks)
    run.view.request("on_policy")

    def refused() -> Control | None:
        control = run.view.control()
        return control if control is not None and control.note else None

    assert wait_until(refused, "an answer to the request").mode is Mode.ASYNC
    await_rows(run, lambda rows: len(rows) >= 3, ranks)
    assert {row["mode"] for row in run.rows} == {"async"}
    run.view.request("stop")
    assert ranks.wait() == 0, ranks.text()
    assert batch_of(run.outcome["version"]) == run.outcome["batches"], "also when it stops between two versions"


def test_a_lost_rank_is_named_and_ends_the_others(new_run: Callable[..., Run]) -> None:
    run = new_run(mode="async", batches=10**6, collective_timeout_s=20.0)
    run.job = replace(run.job, spec=run.job.spec.model_copy(update={"heartbeat_s": 1.0}))
    ranks = run.start()
    await_rows(run, lambda rows: len(rows) >= 1, ranks)
    victim = int(line_with("rank 1 is pid", ranks).rsplit(" ", 1)[1])
    os.kill(victim, signal.SIGSTOP)
    try:
        wait_until(lambda: "rank 1 (" in (why := why_waiting(run.view, run.job.spec)) and "silent" in why, "its name")
        wait_until(lambda: "ranks missing while" in ranks.text(), ranks.text, poll_s=0.1)
    finally:
        os.kill(victim, signal.SIGKILL)
    assert ranks.wait() != 0
    assert f"pid {victim}" in line_with("ranks missing while", ranks)
    assert not (run.folder / "outcome.json").exists()


def test_an_alarm_that_is_to_stop_the_run_saves_it_and_the_same_command_goes_on(new_run: Callable[..., Run]) -> None:
    alarms = {"action": "stop", "ratio_max": 1e-6, "truncated": 0}  # of the toy model most responses are truncated
    run = new_run(mode="on_policy", batches=3, checkpoint_every=100, alarms=alarms)
    run.to_the_end()
    assert (run.outcome["status"], run.outcome["exit_code"], run.outcome["batches"]) == ("error", 79, 1)
    assert "the largest ratio" in run.outcome["what"] and "learner.alarms.ratio_max" in run.outcome["fix"]
    assert (run.folder / "checkpoints" / "step-1-1").is_dir()
    control = run.view.control()
    assert control is not None and (control.state, control.goes_on) == (RunState.STOP, False)
    (notice,) = (each for each in rows(run.folder / "notices.jsonl") if "alarm in batch" in each["text"])
    assert "alarm in batch 1: the largest ratio is 1, above" in notice["text"]
    run.to_the_end()
    assert (run.outcome["status"], [row["batch"] for row in run.rows]) == ("finished", [1, 2, 3])
    assert all(row["alarms"].keys() == {"ratio_max"} for row in run.rows)


def line_with(text: str, ranks: Launched) -> str:
    return next(line for line in ranks.text().splitlines() if text in line)


def test_an_error_that_a_user_can_mend_ends_all_ranks_quietly(new_run: Callable[..., Run], tmp_path: Path) -> None:
    run = new_run(mode="async")
    (run.folder / "checkpoints" / "claims").mkdir(parents=True)
    (run.folder / "checkpoints" / "claims" / "1").write_text('{"parent": ""}')
    (run.folder / "checkpoints" / "latest.1").write_text("step-2-1")
    ranks = run.start()
    assert ranks.wait() == 0, ranks.text()
    assert (run.outcome["status"], run.outcome["exit_code"]) == ("error", 74)
    assert "lineage" in run.outcome["what"]
