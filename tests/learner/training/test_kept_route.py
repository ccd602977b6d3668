"""Which kept batches led to a checkpoint, and why there may be none."""

from pathlib import Path

import pytest
from kept_batches import AROUND, Disk, make_batch

from isentrope.errors import ConfigError
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointState, CheckpointStore
from isentrope.learner.training.group_store import GROUPS, GroupKeeper, read_record
from isentrope.learner.training.kept_route import chosen, kept_from_the_beginning, leading_to, lineage, require_young
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.types import batch_of

BATCHES = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with four kept batches and a checkpoint after each second of them."""
    keeper, store, chain = GroupKeeper(tmp_path, 1, Disk()), CheckpointStore(tmp_path / CHECKPOINTS), ""
    store.claim()
    for number in range(1, BATCHES + 1):
        batch = make_batch(number, chain)
        keeper.keep(batch, AROUND)
        chain = batch.record.after
        if number % 2 == 0:
            above = tuple(group.seq for each in range(1, number + 1) for group in make_batch(each).groups)
            ledger = LedgerState(above=above, trained=2 * number, batches=number, chain=chain)
            state = CheckpointState(config_digest="", data_digest="", mode=Mode.ASYNC, ledger=ledger)
            store.finish(store.begin(number), state, {})
    return tmp_path


def names(batches: tuple[Path, ...]) -> list[str]:
    return [path.name for path in batches]


def test_it_leads_from_the_first_batch_to_the_checkpoint(run: Path) -> None:
    assert lineage(CheckpointStore(run / CHECKPOINTS)) == ["step-4-1", "step-2-1"]
    assert names(leading_to(run, "step-2-1")) == ["1-1", "2-1"]
    assert names(leading_to(run, "step-4-1", after=2)) == ["3-1", "4-1"]
    assert names(kept_from_the_beginning(run, 3)) == ["1-1", "2-1", "3-1", "4-1"]


def test_fewer_batches_than_are_wanted_are_refused_with_their_number(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"learner.batches = 5, and .* has kept 4 batches") as raised:
        kept_from_the_beginning(run, BATCHES + 1)
    assert raised.value.fix.startswith("set it to at most 4")


@pytest.mark.parametrize(("lost", "says"), [(1, "batches 1 to 1"), (3, "batches 1 to 3"), (4, "between batch 0 and")])
def test_a_batch_that_was_not_kept_is_named(run: Path, lost: int, says: str) -> None:
    (run / GROUPS / f"{lost}-1").unlink()
    with pytest.raises(ConfigError, match=says):
        kept_from_the_beginning(run, 1)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no checkpoint"):
        kept_from_the_beginning(tmp_path, 1)
    with pytest.raises(ConfigError, match="there is no checkpoint 7"):
        chosen(["step-4-1"], "7", tmp_path)


def test_a_batch_of_which_nothing_is_young_enough_is_refused(run: Path) -> None:
    """All groups here are of one version: each batch finds it one batch older."""
    batches = kept_from_the_beginning(run, BATCHES)
    newest = batch_of(int(read_record(batches[0]).groups[0].header["version_max"]))
    require_young(batches, BATCHES - 1 - newest)
    with pytest.raises(ConfigError, match=rf"no token of kept batch {newest + 2} is less than 1 batches old") as raised:
        require_young(batches, 0)
    assert raised.value.where == "learner.staleness.token_max_lag"
