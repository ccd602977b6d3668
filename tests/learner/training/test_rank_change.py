"""A checkpoint of two ranks goes on with one and with three: the same weights, masters and moments to the bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import launch, make_model

from isentrope.errors import StorageError
from isentrope.learner.training import rank_change
from isentrope.learner.training.checkpoint_store import CRITIC
from isentrope.learner.training.rank_change import CONVERTED, convert, ranks_of

pytestmark = pytest.mark.slow

STAGES = ["1", "2", "3"]
"""Stage 0 keeps all of its state on every rank, and needs no other form."""
RANKS = [pytest.param(1, marks=pytest.mark.soak), 3]
"""Three do not divide the parameters' sizes."""


def launched(step: str, ranks: int, model: Path, folder: Path) -> dict[str, Any]:
    run = launch("rank_numbers.py", [str(model), str(folder), step, *STAGES], folder / "log.txt", ranks=ranks)
    assert run.wait() == 0, run.text()
    facts: dict[str, Any] = json.loads((folder / f"{step}-{ranks}.json").read_text())
    return facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two ranks of each stage, and its universal form."""
    folder = tmp_path_factory.mktemp("numbers")
    saved = launched("before", 2, make_model(folder / "model"), folder)
    assert all(each["problem"] == "" for each in saved.values())
    for stage in STAGES:
        convert(folder / stage / "saved", lambda: None)
    return folder


@pytest.fixture(scope="module", params=RANKS, ids="{} ranks".format)
def resumed(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    return launched("after", request.param, folder / "model", folder)


@pytest.mark.parametrize("stage", STAGES)
def test_weights_masters_and_moments_are_carried_over(resumed: dict[str, Any], stage: str) -> None:
    facts = resumed[stage]
    assert facts["differ"] == [] and facts["compared"] == 4 * 29
    assert facts["updates"] == 4


@pytest.mark.parametrize("stage", STAGES)
def test_the_next_update_is_the_same_but_for_rounding(resumed: dict[str, Any], stage: str) -> None:
    assert resumed[stage]["gap"] < 1e-6


def test_nothing_else_is_left(folder: Path) -> None:
    for stage in STAGES:
        assert sorted(path.name for path in (folder / stage).iterdir()) == [
            CONVERTED,
            "saved",
            "state.pt",
            "straight.pt",
        ]


def test_ranks_are_counted_by_their_random_states(folder: Path) -> None:
    assert ranks_of(path.name for path in (folder / "1" / "saved").iterdir()) == 2


def test_a_critics_state_is_converted_beside_the_policys(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "saved"
    for part in ("", CRITIC):
        shutil.copytree(folder / "2" / "saved", checkpoint / part, dirs_exist_ok=True)
    found = convert(checkpoint, lambda: None)
    both = [sorted(path.name for path in (each / "zero").iterdir()) for each in (found, found / CRITIC)]
    assert both[0] == both[1] and "network.model.norm.weight" in both[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONVERTED, "saved"]


class Planted:
    """Writes a file when it is unpickled by something trusting."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("open('planted', 'w')",))


def test_planted_code_is_refused_by_the_conversion(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "saved"
    checkpoint.mkdir()
    for path in (folder / "1" / "saved").iterdir():
        (checkpoint / path.name).write_bytes(path.read_bytes())
    torch.save({"optimizer_state_dict": Planted()}, next(checkpoint.glob("*optim_states.pt")))
    with pytest.raises(StorageError, match="cannot be converted"):
        convert(checkpoint, lambda: None)
    assert not (tmp_path / "planted").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_a_conversion_that_takes_too_long_is_ended_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_change, "CONVERT_S", -0.01)
    checkpoint = tmp_path / "saved"
    checkpoint.mkdir()
    with pytest.raises(StorageError, match="not done within"):
        convert(checkpoint, lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
