"""The folder of a comparison: it goes on with more methods and seeds, and with nothing else."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from isentrope.comparison.place import RECORD, Plan, claim, run_folder, run_name
from isentrope.errors import RunFolderError
from isentrope.rollout.config import NAME

PLAN = Plan("mine", 0, {"learner.epochs": 1}, "data", {"grpo": "a", "dapo": "b"})


def test_a_folder_is_continued_also_with_another_method(tmp_path: Path) -> None:
    claim(tmp_path / "new", PLAN)
    claim(tmp_path / "new", PLAN)
    claim(tmp_path / "new", dataclasses.replace(PLAN, digests={**PLAN.digests, "kl_cov": "c"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digests": {"grpo": "a"}}, "it has runs of dapo, too"),
        ({"digests": {"grpo": "z", "dapo": "b"}}, "settings of grpo"),
        ({"pins": {}}, r"learner\.epochs was 1 and is not pinned"),
        ({"first_seed": 3}, "first seed was 0 and is 3"),
        ({"data_digest": "other"}, "the data are others"),
        ({"run": "yours"}, "run.name was 'mine' and is 'yours'"),
    ],
)
def test_a_comparison_that_began_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    claim(tmp_path, PLAN)
    with pytest.raises(RunFolderError, match=message):
        claim(tmp_path, dataclasses.replace(PLAN, **changes))


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunFolderError, match="something other than a comparison"):
        claim(tmp_path, PLAN)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        claim(tmp_path, PLAN)


def test_each_run_has_a_folder_and_a_name_of_its_own() -> None:
    assert run_folder(Path("out"), "own/mine.toml+dapo", 3) == Path("out/mine+dapo/seed-3")
    assert run_name("mine", "kl_cov", 3) == "mine-kl-cov-3"
    long = [run_name("n" * 63, "kl_cov", seed) for seed in range(3)]
    assert len(set(long)) == 3 and all(re.fullmatch(NAME, name) for name in long)
