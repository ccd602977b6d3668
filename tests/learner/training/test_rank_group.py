"""Orders of the ranks come from one table, and nobody waits for one that is not in it."""

import inspect
import json
from pathlib import Path

import pytest
from toy_run import dump, launch, make_job

from isentrope.errors import InternalError
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.rank_group import END, ORDERS, Order, RankGroup
from isentrope.learner.training.rank_orders import JsonArguments


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
        ranks._give(Order("trian", JsonArguments, RankGroup._nothing), JsonArguments())
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
