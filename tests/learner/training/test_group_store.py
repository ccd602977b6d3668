"""What is kept of a batch is what was trained, and whatever happens to the file is named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_batches import AROUND, Disk, make_batch

from isentrope.errors import StorageError
from isentrope.learner.training import group_store
from isentrope.learner.training.group_store import (
    GROUPS,
    GroupKeeper,
    KeptBatches,
    encode,
    read_batch,
    sizes,
)
from isentrope.rollout.wire.codec import encode_group


def test_what_is_read_is_what_was_trained(tmp_path: Path) -> None:
    batch = make_batch(3)
    (tmp_path / "3-1").write_bytes(encode(batch, AROUND))
    kept = read_batch(tmp_path / "3-1")
    assert kept.record.plan == batch.record
    assert kept.record.circumstances.model_dump_json() == AROUND.model_dump_json()
    assert [encode_group(group) for group in kept.groups] == [encode_group(group) for group in batch.groups]


WHOLE = encode(make_batch(3), AROUND)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "3-1"


@given(at=st.integers(0, 8 * len(WHOLE) - 1))
def test_a_flipped_bit_is_named(place: Path, at: int) -> None:
    spoilt = np.frombuffer(WHOLE, np.uint8).copy()
    spoilt[at // 8] ^= 1 << at % 8
    place.write_bytes(spoilt.tobytes())
    in_plan = at // 8 < WHOLE.index(b"\n", WHOLE.index(b"\n") + 1)
    with pytest.raises(StorageError, match=r"kept plan of batch 3" if in_plan else r"kept p.* of batch 3") as raised:
        read_batch(place)
    if not in_plan and "plan" not in raised.value.what:
        first = len(encode_group(make_batch(3).groups[0])[1])
        behind = at // 8 - (len(WHOLE) - first - len(encode_group(make_batch(3).groups[1])[1]))
        assert f"payload of group {30 if behind < first else 31}" in raised.value.what


@given(left=st.integers(0, len(WHOLE) - 1))
def test_a_file_that_is_cut_or_longer_is_refused(place: Path, left: int) -> None:
    for content in (WHOLE[:left], WHOLE + WHOLE[left:]):
        place.write_bytes(content)
        with pytest.raises(StorageError, match="of batch 3 is damaged"):
            read_batch(place)


def test_a_batch_is_on_the_disk_before_a_checkpoint_covers_it(tmp_path: Path) -> None:
    disk = Disk()
    keeper = GroupKeeper(tmp_path, 1, disk)
    (tmp_path / GROUPS).write_text("in the way")
    keeper.keep(make_batch(1), AROUND)
    with pytest.raises(StorageError, match="cannot be kept"):
        keeper.save(tmp_path, 1)
    assert disk.saved == []
    (tmp_path / GROUPS).unlink()
    keeper.keep(make_batch(2), AROUND)
    keeper.save(tmp_path, 2)
    assert disk.saved == [2]
    assert sizes(tmp_path) == {batch: len(encode(make_batch(batch), AROUND)) for batch in (1, 2)}


def test_a_disk_that_stays_full_ends_the_run_before_memory_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(encode(make_batch(1), AROUND))
    monkeypatch.setattr(group_store, "MAX_UNWRITTEN_BYTES", size // 2)
    keeper = GroupKeeper(tmp_path, 1, Disk())
    (tmp_path / GROUPS).write_text("in the way")
    keeper.keep(make_batch(1), AROUND)  # however large a batch is, it may wait for the next one
    with pytest.raises(StorageError, match="groups of 2 batches cannot be kept") as raised:
        keeper.keep(make_batch(2), AROUND)
    assert raised.value.exit_code == 74 and "last checkpoint" in raised.value.fix


def test_the_chain_of_plans_tells_which_of_several_learners_led_to_a_checkpoint(tmp_path: Path) -> None:
    first = make_batch(1)
    ours, theirs = make_batch(2, first.record.after), make_batch(2, "another")
    for incarnation, batch in ((1, first), (1, theirs), (2, ours), (4, ours)):
        GroupKeeper(tmp_path, incarnation, Disk()).keep(batch, AROUND)
    kept = KeptBatches(tmp_path)

    def led(incarnation: int, chain: str = ours.record.after, after: int = 0) -> list[str]:
        return [path.name for path in kept.leading_to(2, chain, incarnation, after=after)]

    assert led(3) == ["2-2", "1-1"]
    assert led(4, after=1) == ["2-4"]
    assert led(1, theirs.record.after, after=1) == ["2-1"]
    with pytest.raises(StorageError, match="no kept plan of batch 2 is that of the run"):
        led(1)


def test_what_was_not_kept_ends_the_way_back(tmp_path: Path) -> None:
    last = make_batch(2, "of a batch that was not kept")
    GroupKeeper(tmp_path, 1, Disk()).keep(last, AROUND)
    assert [path.name for path in KeptBatches(tmp_path).leading_to(2, last.record.after, 1, after=0)] == ["2-1"]
