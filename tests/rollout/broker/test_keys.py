"""Names of keys: one hash tag per run, and no run name that could widen an access rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import ConfigError
from isentrope.rollout.broker.connection import SCRIPT_KEYS
from isentrope.rollout.broker.keys import Keys

NAMES = [name for name, value in vars(Keys).items() if isinstance(value, property)]


def test_all_keys_of_a_run_differ_and_share_its_hash_tag() -> None:
    keys = [getattr(Keys("math-7b"), name) for name in NAMES]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("{math-7b}:") for key in keys)


def test_scripts_name_only_keys_that_exist() -> None:
    assert {name for names in SCRIPT_KEYS.values() for name in names.split()} <= set(NAMES)


@given(st.text(max_size=3).map(lambda text: f"a{text}b"))
def test_a_run_name_holds_nothing_that_a_glob_or_a_hash_tag_reads(run: str) -> None:
    try:
        Keys(run)
    except ConfigError:
        return
    assert set(run) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("run", ["", "-a", "A", "a" * 64, "a*", "a}b", "a?", "a\n", "ä"])
def test_other_run_names_are_refused(run: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        Keys(run)
