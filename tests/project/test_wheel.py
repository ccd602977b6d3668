"""The wheel holds what the checkout holds. A build back end that drops the links succeeds, with three files."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDERS = ("actors", "kernels", "learner", "rollout")
SHIPPED = {".py", ".lua", ".toml", ".json"}
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")
"""Also keeps off the file list that an earlier build left behind and setuptools would trust."""

BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as for a package index."""
    out = tmp_path_factory.mktemp("dist")
    shutil.copytree(root, out / "checkout", symlinks=True, ignore=NOT_SOURCE)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=out / "checkout", check=True)
    (sdist,) = out.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
    subprocess.run([*pip, str(sdist)], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_four_folders(wheel: Path, root: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for name in FOLDERS:
        files = {f"isentrope/{p.relative_to(root).as_posix()}" for p in (root / name).rglob("*") if p.suffix in SHIPPED}
        assert files - inside == set()


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {"isentrope/py.typed", "isentrope/environment.py", "isentrope/demo/run.toml"} <= inside
    assert [name for name in inside if not name.startswith("isentrope/")] == []
