"""A run whose batch cannot fit into the broker's budget is refused with the number to set."""

import re
from pathlib import Path

import pytest

from isentrope.check.budget import require_budget
from isentrope.config import load
from isentrope.errors import ConfigError


def _check(run_file: Path, max_bytes: int, refill: int = 0) -> None:
    overrides = (f"redis.max_bytes={max_bytes}", "redis.max_record_bytes=1000", "learner.prompts_per_batch=16")
    require_budget(*load(run_file, overrides), 100, refill)


def _number(refused: ConfigError) -> int:
    found = re.search(r"set redis\.max_bytes = (\d+)", refused.fix)
    assert found
    return int(found[1])


@pytest.mark.parametrize("refill", [0, 3])
def test_the_number_that_is_told_is_the_least_that_is_allowed(run_file: Path, refill: int) -> None:
    with pytest.raises(ConfigError, match=r"redis\.max_bytes = 1000 is less than the \d+ bytes of") as refused:
        _check(run_file, 1000, refill)
    least = _number(refused.value)
    assert refused.value.where.startswith("command line")
    _check(run_file, least, refill)
    with pytest.raises(ConfigError):
        _check(run_file, least - 1, refill)


def test_groups_that_may_be_replaced_need_room_too(run_file: Path) -> None:
    least = []
    for refill in (0, 1, 3):
        with pytest.raises(ConfigError) as refused:
            _check(run_file, 1000, refill)
        least.append(_number(refused.value))
    assert least[1] - least[0] == (least[2] - least[0]) / 3 > 0
