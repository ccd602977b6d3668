"""What is written as TOML is read back as it was."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from isentrope.toml_text import leaves, toml_key, toml_value

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_LEAVES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _TEXT
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=8)


@given(st.dictionaries(_TEXT, _VALUES))
def test_tables_come_back_as_they_were(table: dict[str, object]) -> None:
    text = "".join(f"{toml_key(names)} = {toml_value(value)}\n" for names, value in leaves(table))
    assert tomllib.loads(text) == table
