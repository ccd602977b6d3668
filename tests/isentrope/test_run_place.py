"""A run is meant by its folder, or by a name on a broker; never by half of either."""

from pathlib import Path

import pytest
from run_records import make_run_record

from isentrope.errors import ConfigError, RunFolderError, UnreachableError
from isentrope.learner import json_files
from isentrope.rollout.broker.access import Role
from isentrope.run_place import RunPlace


def test_a_folder_knows_its_run_and_its_broker(tmp_path: Path) -> None:
    json_files.write(tmp_path, make_run_record(run="mine", socket=str(tmp_path / "gone")))
    way = RunPlace(tmp_path).way(Role.VIEWER, deadline_s=1.0)
    assert (RunPlace(tmp_path).run_folder, way.run) == (tmp_path, "mine")
    with pytest.raises(UnreachableError, match="its private broker is gone"):
        way.open()


def test_a_name_wins_over_a_folder(tmp_path: Path) -> None:
    place = RunPlace(tmp_path / "nowhere", f"unix://{tmp_path}/none", "other")
    assert (place.run_folder, place.way(Role.VIEWER, deadline_s=1.0).run) == (None, "other")


def test_a_broker_without_a_name_and_a_folder_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing names a run on it"):
        RunPlace(tmp_path, "redis://localhost:1").way(Role.VIEWER, deadline_s=1.0)
    with pytest.raises(RunFolderError):
        RunPlace(tmp_path).way(Role.VIEWER, deadline_s=1.0)
