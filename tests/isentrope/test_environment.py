"""Defaults yield to the user's own settings, and fit the machine."""

import os
import sys
from pathlib import Path

import pytest

from isentrope import environment


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable these tests touch is as before afterwards."""
    for name in environment.defaults(cpu=True, offline=True):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment.set_defaults(cpu=True)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["TORCHDYNAMO_DISABLE"] == "1"


def test_a_gpu_keeps_its_compiler_and_threads() -> None:
    environment.set_defaults(cpu=False)
    assert "TORCHDYNAMO_DISABLE" not in os.environ
    assert "OMP_NUM_THREADS" not in os.environ
    assert "DS_ACCELERATOR" not in os.environ


def test_models_by_id_stay_reachable_unless_offline_is_asked_for() -> None:
    environment.set_defaults(cpu=True)
    assert "HF_HUB_OFFLINE" not in os.environ
    environment.set_defaults(cpu=True, offline=True)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_folder_of_the_command_is_no_place_for_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for wanted in (False, True):
        monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/elsewhere"])
        monkeypatch.setenv("PYTHONPATH", str(tmp_path) if wanted else "/elsewhere")
        environment.forget_command_folder()
        assert (str(tmp_path) in sys.path) == wanted and "/elsewhere" in sys.path


def test_the_folder_of_this_program_stays_a_place_for_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed and the command is given beside it."""
    here = Path(environment.__file__).resolve().parent.parent
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here)])
    environment.forget_command_folder()
    assert sys.path == [str(here)]


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices_count_as_none(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not environment.has_gpu()


def test_cache_folder_follows_the_desktop_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.cache_folder() == tmp_path / "isentrope"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.cache_folder() == tmp_path / ".cache" / "isentrope"
