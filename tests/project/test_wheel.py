"""The wheel holds what the checkout holds. A build back end that drops the links succeeds, with three files."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from source_files import EXAMPLES, FOLDERS

from isentrope.init import COPIED

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
def test_wheel_holds_every_file_of_the_checkouts_package(wheel: Path, root: Path) -> None:
    """Through the links, so the four folders and the examples are among them; not what an example has made."""
    package = root / "src" / "isentrope"
    folders = [package, *(package / name for name in FOLDERS)]
    files = {
        path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    files |= {path for pattern in COPIED for path in (package / EXAMPLES).rglob(pattern)}
    names = {path.relative_to(root / "src").as_posix() for path in files}
    assert {"isentrope/kernels/plain.py", "isentrope/report/page.html", "isentrope/py.typed"} <= names
    assert names - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.slow
def test_wheel_holds_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert [name for name in inside if not name.startswith("isentrope/")] == []
