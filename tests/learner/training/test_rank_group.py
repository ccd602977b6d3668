"""Orders of the ranks come from one table, and nobody waits for one that is not in it."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_batch import make_toy_rows
from toy_run import dump, launch, make_job

from isentrope.errors import ConfigError, InternalError
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training.checkpoint_store import CRITIC
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.rank_group import END, ORDERS, RankGroup, RankOrder
from isentrope.learner.training.rank_orders import JsonArguments, ScoreArguments, TrainArguments
from isentrope.learner.training.trainer import Schedule
from isentrope.rollout.wire.proof import CanaryTokens, read_canary
from isentrope.rollout.wire.types import version_of

CANARY = CanaryTokens(tokens=tuple(range(9)), arbitrary=True)


@pytest.fixture
def ranks(alone: Collectives, tmp_path: Path, toy_model: Path) -> RankGroup:
    """A group of one rank, without a network."""
    objective = build(load_objective("grpo", {}, tmp_path), tmp_path, max_new_tokens=8)
    return RankGroup(make_job("run", "unix:///nowhere", toy_model, tmp_path), objective, alone)


def test_every_method_of_rank_0_is_an_order_of_the_table_and_every_order_has_one() -> None:
    methods = {name for name, _ in inspect.getmembers(RankGroup, inspect.isfunction) if not name.startswith("_")}
    assert methods - {"follow"} == set(ORDERS)


def test_rank_0_sends_no_order_that_is_not_in_the_table(
    ranks: RankGroup, alone: Collectives, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(alone, "broadcast", sent.append)
    with pytest.raises(InternalError, match="unknown order 'trian'") as raised:
        ranks._give(RankOrder("trian", JsonArguments, RankGroup._nothing), JsonArguments())
    assert sent == [] and "train" in raised.value.fix


def test_a_rank_follows_until_the_end(ranks: RankGroup, alone: Collectives, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = iter([b"idle\n{}", b"end\n{}"])
    monkeypatch.setattr(alone, "broadcast", lambda: next(orders))
    ranks.follow()
    assert ranks.doing == END.name and next(orders, None) is None


def test_an_unknown_order_ends_every_rank_instead_of_leaving_rank_0_alone(tmp_path: Path, toy_model: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(dump(make_job("run", "unix:///nowhere", toy_model, tmp_path)))
    launched = launch("rank_strangers.py", [str(job), str(tmp_path / "met.json")], tmp_path / "log.txt")
    assert launched.wait(200) == 0, launched.text()
    assert json.loads((tmp_path / "met.json").read_text()) == ["sent", "unknown order 'trian'"]


def test_a_critic_begins_with_a_model_of_its_own_and_lies_below_the_policy_in_a_checkpoint(
    alone: Collectives, tmp_path: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    monkeypatch.setattr(alone, "broadcast", lambda told: told)
    objective = build(load_objective("ppo", {}, tmp_path), tmp_path, max_new_tokens=8)
    job = make_job("run", "unix:///nowhere", toy_model, tmp_path, ranks=1, critic={"path": "own"})
    with pytest.raises(ConfigError, match="own"):
        RankGroup(job, objective, alone).build(None, None)
    shutil.copytree(toy_model, tmp_path / "own")
    ranks = RankGroup(job, objective, alone)
    ranks.build(None, None)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    files = ranks.save(folder, 1)
    parts = [[path.name for path in each.iterdir() if path.is_file()] for each in (folder, folder / CRITIC)]
    assert sorted(files) == sorted([*parts[0], *(f"{CRITIC}/{name}" for name in parts[1])])
    assert sorted(parts[0]) == sorted(parts[1]) and ranks.check(folder, files) == ""
    again, schedule = RankGroup(job, objective, alone), Schedule(1, 200, 2, 1, 0.5)
    again.build(folder, None)
    assert again.compare(folder) == ""
    for each in (ranks, again):
        each.train(make_toy_rows(groups=4, group_size=4), schedule, objective.start())
    assert again.compare(folder) != ""
    (later := tmp_path / "later").mkdir()
    ranks.save(later, 2)
    assert again.compare(later) == ""
    shard = next((folder / CRITIC).glob("*optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{CRITIC}/{shard.name}" in ranks.check(folder, files)


def test_the_others_carry_out_what_rank_0_has_sent(
    alone: Collectives, tmp_path: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    sent: list[bytes] = []
    job = make_job("run", "unix:///nowhere", toy_model, tmp_path)
    objective = build(load_objective("prorl", {}, tmp_path), tmp_path, max_new_tokens=8)
    ragged = make_toy_rows(groups=4, group_size=4)
    schedule = Schedule(seed=1, micro_batch_tokens=200, updates_per_batch=2, epochs=1, progress=0.5)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(alone, "broadcast", sent.append)
        first = RankGroup(job, objective, alone)
        first.build(None, None)
        trained = first.train(ragged, schedule, objective.start())
        entropy = first.score(ragged).entropy
        manifest = first.publish(version_of(1, 1), CANARY).result()
        assert manifest is not None
        written = read_canary(Path(manifest.folder))
        assert (written.tokens, written.arbitrary) == (CANARY.tokens, True)
        files = first.save(folder, 1)
        assert first.check(folder, files) == ""
        assert first.compare(folder) == ""
        first.refresh(version_of(1, 1))
        first.idle()
        first.end()
    assert {message.partition(b"\n")[0].decode() for message in sent} == set(ORDERS)

    # The other is rank 0 too, which is dealt no share.
    kept, scored = TrainArguments(ragged, schedule, objective.start()), ScoreArguments(ragged)
    monkeypatch.setattr(TrainArguments, "from_bytes", lambda told: kept)
    monkeypatch.setattr(ScoreArguments, "from_bytes", lambda told: scored)
    orders = iter(sent)
    monkeypatch.setattr(alone, "broadcast", lambda: next(orders))
    other = RankGroup(job, objective, alone)
    other.follow()
    monkeypatch.setattr(alone, "broadcast", sent.append)
    assert trained.applied == 2
    assert torch.equal(other.score(ragged).entropy, entropy)
    again = other.publish(version_of(1, 1), CANARY).result()
    assert again is not None and again.digest == manifest.digest
