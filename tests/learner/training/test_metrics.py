"""Lines of metrics: their fields, their files, and that they can be taken back."""

import errno
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import filter as filter_names
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import objective_of, random_batch
from pydantic import ValidationError
from run_records import MEASURES, make_row
from toy_batch import make_toy_rows, padded
from toy_log import AROUND, make_accounts, make_alarms, written_row

from isentrope.learner import json_files
from isentrope.learner.config import AlarmsConfig
from isentrope.learner.intake.outcomes import Tally
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.intake.retirement import length_bucket
from isentrope.learner.measures import Measures
from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import method_names
from isentrope.learner.records import BatchRow
from isentrope.learner.training import entropy_law
from isentrope.learner.training.deepspeed_engine import UpdateFacts
from isentrope.learner.training.journal import Journal
from isentrope.learner.training.metrics import Accounts, BatchLog, Drawn, Draws, scalars, served_policy
from isentrope.learner.training.sinks import TensorBoard
from isentrope.learner.training.stopwatch import Stopwatch
from isentrope.learner.training.trainer import BatchFacts
from isentrope.learner.training.untrained import UntrainedCounts
from isentrope.progress import Tail
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.proof import Proof

RAGGED = make_toy_rows(groups=3, group_size=4, number=6)


def facts_of_batch(*applied: bool, ragged: RaggedBatch = RAGGED) -> BatchFacts:
    """A batch whose policy is the one that sampled, after updates of which some were applied."""
    rows, longest = ragged.shape
    entropy = torch.linspace(0.01, 3.0, rows * longest).view(rows, longest)
    measured = padded(ragged, padded(ragged).logp_rollout + 0.5, entropy)
    return facts_of(objective_of("grpo"), measured, *applied)


def facts_of(objective: Objective, batch: Batch, *applied: bool) -> BatchFacts:
    """What is known of a batch after updates of all its responses, of which some were applied."""
    everything, state = torch.arange(len(batch.group)), objective.start()
    prepared = objective.prepare(batch, [everything] * len(applied), state)
    logp = batch.logp_rollout.clone().requires_grad_()
    parts = objective.token_loss(prepared, 0, everything, logp, batch.statistics.entropy, state)
    sums = {name: float(value) for name, value in parts.sums.items()}
    maxima = {name: float(value) for name, value in parts.maxima.items()}
    updates = [UpdateFacts(each, 2.0 if each else float("inf"), sums, maxima) for each in applied]
    return BatchFacts(batch, prepared, tuple(updates), state, 0.0, 0.0)


def test_a_line_is_what_was_trained(tmp_path: Path) -> None:
    row = written_row(tmp_path, RAGGED, facts_of_batch(True, True))
    assert (row.batch, row.groups, row.responses) == (7, 3, 12)
    assert row.tokens == int(RAGGED.length.sum()) == sum(row.lag_hist.values())
    assert row.logp_gap_mean == pytest.approx(0.5)
    assert row.entropy_hist is not None and sum(row.entropy_hist.counts) == row.tokens
    assert len(row.entropy_hist.edges) == len(row.entropy_hist.counts) + 1
    assert (row.mode, row.version, row.trained, row.retired, row.issued) == ("async", 1 << 20, 3, 1, 9)
    assert (row.process.ready_groups, row.process.actors, row.process.reward_drawn) == (2, 1, None)
    assert row.time.tokens_per_second > 0


@pytest.mark.parametrize("key", sorted(BatchRow.model_fields))
def test_a_line_without_a_key_or_under_another_name_is_an_error(tmp_path: Path, key: str) -> None:
    values = written_row(tmp_path, RAGGED, facts_of_batch(True)).to_json()
    value = values.pop(key)
    if BatchRow.model_fields[key].is_required():
        with pytest.raises(ValidationError, match=key):
            BatchRow.model_validate(values)
    with pytest.raises(ValidationError, match=f"{key}_renamed"):
        BatchRow.model_validate(values | {key: value, f"{key}_renamed": value})


@pytest.mark.parametrize("part", ["objective", "process", "time", "untrained"])
def test_parts_of_a_line_are_strict_too(tmp_path: Path, part: str) -> None:
    values = json.loads(json.dumps(written_row(tmp_path, RAGGED, facts_of_batch(True)).to_json()))
    values[part] |= {"renamed": 1.0}
    with pytest.raises(ValidationError, match="renamed"):
        BatchRow.model_validate(values)
    (tmp_path / BatchRow.FILE).write_text(json.dumps(values) + "\n")
    (row,) = json_files.read_lines(tmp_path, BatchRow)
    assert "renamed" not in row.to_json()[part]  # type: ignore[operator]


def test_all_that_objectives_measure_is_declared_and_all_that_is_declared_is_measured(tmp_path: Path) -> None:
    found: set[str] = set()
    for number, method in enumerate(method_names()):
        facts = facts_of(objective_of(method), random_batch(seed=number, dtype=torch.float32), True)
        found |= written_row(tmp_path, RAGGED, facts).objective.model_fields_set
    bound = replace(facts_of_batch(True), at_bound=("entropy_pi",), idle=("entropy_step",))
    found |= written_row(tmp_path, RAGGED, bound).objective.model_fields_set
    law = make_row(objective=dict(MEASURES) | {"entropy_law": entropy_law.fit([0.1, 0.2, 0.3], [0.3, 0.2, 0.1])})
    found |= law.objective.model_fields_set
    assert Measures.model_fields.keys() <= found
    undeclared = found - Measures.model_fields.keys()
    assert {pattern for pattern in Measures.PATTERNS if filter_names(undeclared, pattern)} == Measures.PATTERNS.keys()


def test_the_law_stands_in_the_line_once_there_are_enough_batches(tmp_path: Path) -> None:
    log = BatchLog(tmp_path, [], Stopwatch(), make_accounts())
    for number in range(entropy_law.FEWEST):
        facts = facts_of(objective_of("grpo"), random_batch(seed=number, dtype=torch.float32), True)
        log.write(replace(RAGGED, number=number), facts, AROUND)
    *early, last = json_files.read_lines(tmp_path, BatchRow)
    assert all(row.objective.entropy_law is None for row in early)
    fitted = entropy_law.fit([row.entropy for row in (*early, last)], [row.reward for row in (*early, last)])
    assert fitted is not None and last.objective.entropy_law == fitted


def test_alarms_stand_in_the_line_and_are_switches_elsewhere(tmp_path: Path) -> None:
    class Kept:
        """A sink that keeps what it is given."""

        def write(self, batch: int, numbers: Mapping[str, float]) -> None:
            written.append(dict(numbers))

        def close(self) -> None:
            """Nothing is open."""

    written: list[dict[str, float]] = []
    log = BatchLog(tmp_path, [Kept()], Stopwatch(), make_accounts(ratio_max=0.5, truncated=0))
    verdict = log.write(RAGGED, facts_of_batch(True), AROUND)
    (row,) = json_files.read_lines(tmp_path, BatchRow)
    assert row.alarms == verdict.raised and verdict.raised["ratio_max"].value == row.ratio_max
    switches = {name: value for name, value in written[0].items() if name.startswith("alarm")}
    assert (switches["alarm/ratio_max"], switches["alarm/entropy_share"]) == (1.0, 0.0)
    assert switches.keys() == {f"alarm/{name}" for name in AlarmsConfig.model_fields} - {
        "alarm/action",
        "alarm/window",
        "alarm/truncated",
    }


def test_a_resumed_log_does_not_say_again_what_is_still_on(tmp_path: Path) -> None:
    for batches_before in range(2):
        log = BatchLog(tmp_path, [], Stopwatch(), make_accounts(ratio_max=0.5))
        log.rewind(RAGGED.number + batches_before, None)
        verdict = log.write(replace(RAGGED, number=RAGGED.number + batches_before), facts_of_batch(True), AROUND)
        assert "ratio_max" in verdict.raised
        assert any("ratio_max" in text for text in verdict.said) == (batches_before == 0)


def test_the_gap_of_fresh_tokens_is_of_those_alone(tmp_path: Path) -> None:
    fresh = np.ones_like(RAGGED.mask)
    fresh[: RAGGED.length[0]] = False
    ragged = replace(RAGGED, fresh=fresh)
    facts = facts_of_batch(True, ragged=ragged)
    assert facts.batch.fresh is not None
    gap = torch.where(facts.batch.fresh, 0.25, 3.0)
    statistics = facts.batch.statistics._replace(logp=facts.batch.logp_rollout + gap)
    row = written_row(tmp_path, ragged, replace(facts, batch=replace(facts.batch, statistics=statistics)))
    assert row.objective.logp_gap_fresh == pytest.approx(0.25, rel=1e-5)
    old = replace(RAGGED, fresh=np.zeros_like(fresh))
    assert written_row(tmp_path, old, facts_of_batch(True, ragged=old)).objective.logp_gap_fresh is None


def test_lags_are_those_of_what_was_trained_and_what_was_masked_is_counted(tmp_path: Path) -> None:
    lag = np.full_like(RAGGED.lag, 1)
    lag[: RAGGED.length[0]] = 3
    old = int(RAGGED.length[0])
    ragged = replace(RAGGED, lag=lag, mask=RAGGED.mask & (lag <= 2))
    row = written_row(tmp_path, ragged, facts_of_batch(True, ragged=ragged))
    assert (row.lag_max, row.lag_mean, row.tokens_masked) == (1, 1.0, old)
    assert row.lag_hist == {1: row.tokens}


def test_skipped_updates_are_counted_and_left_out_of_means(tmp_path: Path) -> None:
    row = written_row(tmp_path, RAGGED, facts_of_batch(True, False, True))
    assert (row.updates, row.skipped, row.grad_norm) == (3, 1, 2.0)
    whole = written_row(tmp_path, RAGGED, facts_of_batch(True))
    assert (row.loss, row.ratio_mean) == (whole.loss, whole.ratio_mean)


def test_a_batch_without_an_update_or_a_token_has_a_line(tmp_path: Path) -> None:
    assert written_row(tmp_path, RAGGED, facts_of_batch(False)).ratio_mean == 1.0
    nothing = replace(RAGGED, mask=np.zeros_like(RAGGED.mask))
    row = written_row(tmp_path, nothing, facts_of_batch(False, ragged=nothing))
    assert (row.tokens, row.lag_max, row.entropy_hist) == (0, 0, None)


def test_means_over_what_was_drawn_count_what_was_replaced() -> None:
    draws = Draws()
    measured = {"reward": 0.25, "pass_rate": 0.5, "responses": 8}
    replaced = Tally(responses=16, reward=4.0, correct=12)
    assert draws.with_batch(measured, replaced) == Drawn((2 + 4) / (8 + 16), (4 + 12) / (8 + 16))
    assert draws.with_batch(measured, replaced) == Drawn(0.25, 0.5)
    graded = {"reward": 0.25, "responses": 8}
    assert draws.with_batch(graded, replaced + Tally(8, 6.0)) == Drawn((2 + 6) / (8 + 8), None)


def test_a_line_says_the_means_of_what_was_drawn(tmp_path: Path) -> None:
    row = written_row(tmp_path, RAGGED, facts_of_batch(True), Draws())
    assert row.process.reward_drawn == pytest.approx(row.reward)
    assert row.process.pass_rate_drawn == pytest.approx(row.pass_rate)


def test_sinks_get_the_figures_of_each_function_by_its_name(tmp_path: Path) -> None:
    row = written_row(tmp_path, RAGGED, facts_of_batch(True))
    numbers = scalars(row.to_json())
    assert (numbers["rewards/f/mean"], numbers["rewards/f/std"], numbers["rewards/f/missing"]) == (0.5, 0.5, 0.25)


def test_a_graded_batch_has_no_pass_rate(tmp_path: Path) -> None:
    ragged = RaggedBatch.from_bytes(replace(RAGGED, correct=None).to_bytes())
    row = written_row(tmp_path, ragged, facts_of_batch(True, ragged=ragged), Draws())
    assert row.pass_rate is row.objective.groups_all_correct is row.process.pass_rate_drawn is None
    assert row.objective.groups_same_reward == 0.0
    assert row.process.reward_drawn == pytest.approx(row.reward)


def proven(state: ActorStage, version: int, gap: float | None) -> ActorState:
    """An actor that has proven a version."""
    proof = Proof(tensors=7, gap_mean=gap, gap_max=gap, seconds=gap or 0.0)
    return ActorState(id=f"{state}-{version}", state=state, version=version, proof=proof)


def test_what_is_served_is_the_newest_version_of_actors_that_serve() -> None:
    actors = [
        proven(ActorStage.STALE, 1, 0.9),
        proven(ActorStage.SERVING, 2, 0.1),
        proven(ActorStage.SERVING, 2, 0.2),
        proven(ActorStage.SERVING, 2, None),
        proven(ActorStage.GONE, 2, 0.8),
        proven(ActorStage.GONE, 3, 0.7),
        ActorState(id="new", state=ActorStage.SYNCING),
    ]
    served = served_policy(actors)
    assert served is not None
    assert (served.version, served.tensors, served.gap_mean, served.gap_max) == (2, 7, 0.2, 0.2)
    assert served.seconds == 0.2
    assert served_policy(actors[4:]) is None


def test_numbers_of_nested_maps_have_joined_names() -> None:
    row = {"a": 1, "b": {"c": 2.5, "d": [1, 2], "e": {"f": True}}, "g": "text"}
    assert scalars(row) == {"a": 1.0, "b/c": 2.5, "b/e/f": 1.0}


def test_a_full_disk_costs_no_run_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, BatchRow)
    journal.append(make_row(1))
    with monkeypatch.context() as patched:

        def refuse(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(os, "fsync", refuse)  # after half of a line may have reached the file
        journal.append(make_row(2))
        journal.append(make_row(3))
    assert "No space left" in caplog.text and journal.rows() == [make_row(1)]
    journal.append(make_row(4))
    assert journal.rows() == [make_row(batch) for batch in range(1, 5)]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"7", b'{"batch": null}', b"[" * 100_000, b'{"batch": 1e999}', b"{"]
)
def test_a_damaged_line_costs_itself_alone(tmp_path: Path, line: bytes) -> None:
    journal = Journal(tmp_path, BatchRow)
    journal.append(make_row(1))
    with (tmp_path / BatchRow.FILE).open("ab") as file:
        file.write(line + b"\n")
    journal.append(make_row(2))
    assert journal.rows() == list(Tail(tmp_path, BatchRow, from_end=False).read()) == [make_row(1), make_row(2)]
    journal.rewind(2)
    assert (tmp_path / BatchRow.FILE).read_bytes().count(b"\n") == 2


def test_a_journal_forgets_what_is_trained_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, BatchRow)
    journal.rewind(3)
    for batch in range(1, 6):
        journal.append(make_row(batch))
    with (tmp_path / BatchRow.FILE).open("a") as file:
        file.write('{"batch": 2, "cut o')
    journal.rewind(3)
    assert journal.rows() == [make_row(batch) for batch in range(1, 4)]
    journal.rewind(-1)
    assert journal.rows() == []


def test_tensorboard_files_are_written_if_asked_for(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path / "tensorboard")
    sink.write(1, {"reward": 0.5})
    sink.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_line_tells_why_responses_did_not_train_since_the_line_before_and_how_long_they_were(tmp_path: Path) -> None:
    long = int(RAGGED.length.argmax())
    mask = RAGGED.mask.copy()
    mask[np.repeat(np.arange(len(RAGGED.length)), RAGGED.length) == long] = False
    ragged = replace(RAGGED, mask=mask)
    counts, read_again = UntrainedCounts(), {"reward": Counter({8: 3})}
    counts.start(replace(AROUND.intake, retired={"stale": 1, "reward": 5}, failed=read_again, retired_whole=read_again))
    log = BatchLog(tmp_path, [], Stopwatch(), Accounts(None, counts, make_alarms()))
    for number, (groups, failed) in enumerate([({"stale": 3, "reward": 5}, 5), ({"stale": 3, "reward": 6}, 10)]):
        lengths = {"reward": Counter({8: failed}), "engine": Counter({0: 1})}
        intake = replace(
            AROUND.intake, retired=groups, failed=lengths, retired_whole=read_again | {"stale": Counter({4: 8})}
        )
        facts = facts_of(objective_of("psr"), padded(ragged), True)
        log.write(replace(ragged, number=number), facts, replace(AROUND, intake=intake))
    first, second = (row.untrained for row in json_files.read_lines(tmp_path, BatchRow))
    assert (first.groups, second.groups) == ({"stale": 2}, {"reward": 1})
    assert first.failed == {"engine": {0: 1}, "reward": {8: 2}} and second.failed == {"reward": {8: 5}}
    assert first.retired == {"stale": {4: 8}} and second.retired == {}
    assert first.masked == {length_bucket(int(RAGGED.length[long])): 1}
    assert RAGGED.correct is not None
    wrong = [length for row, length in enumerate(RAGGED.length) if not RAGGED.correct[row] and row != long]
    assert sum(first.filtered.values()) == len(wrong) > 0
    assert first.filtered == Counter(length_bucket(int(length)) for length in wrong)
