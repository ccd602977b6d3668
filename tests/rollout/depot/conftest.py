"""Each kind of depot."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from depot_kinds import Kind, folder_kind, http_kind
from object_store import STORES

from isentrope.rollout.depot import fetching


@pytest.fixture(params=["folder", "http", *STORES])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """A depot that is empty."""
    make = {"folder": folder_kind, "http": http_kind, **STORES}[request.param]
    root = tmp_path / "depot"
    root.mkdir()
    with make(root) as made:
        yield made


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file of these tests take several requests."""
    monkeypatch.setattr(fetching, "RANGE_BYTES", 100)
