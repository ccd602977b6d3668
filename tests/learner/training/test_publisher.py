"""Where a version goes: into the run's folder, and into every other announced depot that takes files."""

from concurrent.futures import Future
from pathlib import Path
from typing import cast

import pytest
from depot_kinds import make_version
from wire_records import make_spec

from isentrope.learner.training import publisher as publisher_module
from isentrope.learner.training.publisher import Publisher
from isentrope.learner.training.rank_group import RankGroup
from isentrope.rollout.depot.folder_depot import FolderDepot
from isentrope.rollout.wire.weights import Manifest


class OneRank:
    """A group that writes a version at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def publish(self, version: int, tokens: object) -> "Future[Manifest | None]":
        written: Future[Manifest | None] = Future()
        written.set_result(make_version(self._folder))
        return written


def test_a_version_is_copied_where_it_can_be_and_nothing_else_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks may lack the libraries of a depot over HTTP, which they only announce."""
    opened: list[str] = []

    def opening(url: str) -> FolderDepot:
        opened.append(url)
        return FolderDepot(Path(url.removeprefix("file://")))

    monkeypatch.setattr(publisher_module, "open_depot", opening)
    run, copy = tmp_path / "run", tmp_path / "copy"
    depots = (f"file://{run}", f"file://{copy}", "http://host:1", "HTTPS://host:2")
    spec = make_spec("r", output_dir=str(run), depots=depots)
    group = cast("RankGroup", OneRank(run))
    manifest = Publisher(group, spec, incarnation=1, keep=2, timeout_s=60.0).write(1)
    assert opened == [f"file://{copy}"]
    files = {path.name: path.read_bytes() for path in (copy / "weights" / str(manifest.version)).iterdir()}
    assert files == {path.name: path.read_bytes() for path in Path(manifest.folder).iterdir()}
