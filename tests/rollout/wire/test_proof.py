"""What proves a version comes back from its files, and damage is told."""

from pathlib import Path

import pytest

from isentrope.errors import StorageError
from isentrope.rollout.wire.proof import CANARY, Canary, TensorFacts, parse_tensors, read_canary, tensors_text

TABLE = {"b": TensorFacts("bfloat16", (2, 3), "0f"), "a": TensorFacts("float32", (), "0e")}


def test_a_table_comes_back_and_its_text_does_not_depend_on_the_order() -> None:
    assert parse_tensors(tensors_text(TABLE).encode()) == TABLE
    assert tensors_text(dict(sorted(TABLE.items()))) == tensors_text(TABLE)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": ["float32", [2]]}', b'{"a": ["float32", "2", "0f"]}'])
def test_no_table_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_tensors(content)


def test_a_canary_comes_back_to_the_bit(tmp_path: Path) -> None:
    canary = Canary(tokens=(3, 1, 2), logp=(-0.1, -2.0 / 3.0))
    (tmp_path / CANARY).write_text(canary.model_dump_json())
    assert read_canary(tmp_path) == canary


def test_a_canary_that_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_canary(tmp_path)
    (tmp_path / CANARY).write_text('{"tokens": [1]}')
    with pytest.raises(StorageError, match="2 fields are wrong"):
        read_canary(tmp_path)
