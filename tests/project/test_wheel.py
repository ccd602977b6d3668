"""What a package index would get: the wheel holds what the checkout holds, its description of itself is valid, and it
runs where the checkout is not seen. A build back end that drops the links succeeds, with three files."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from source_files import EXAMPLES, FOLDERS

import isentrope
from isentrope.init import COPIED

pytestmark = pytest.mark.slow

NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")
"""Also keeps off the file list that an earlier build left behind and setuptools would trust."""

BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"

BESIDE = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
"""Files of the source distribution that are not below `src`."""


@dataclass(frozen=True, slots=True)
class Built:
    """The two files of a release."""

    sdist: Path
    wheel: Path

    def in_sdist(self) -> set[str]:
        """Return the files of the source distribution, below its folder."""
        with tarfile.open(self.sdist) as file:
            return {each.name.partition("/")[2] for each in file.getmembers() if each.isfile()}

    def in_wheel(self) -> set[str]:
        """Return the files of the wheel."""
        return set(zipfile.ZipFile(self.wheel).namelist())


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is built from the source distribution, as for a package index."""
    out = tmp_path_factory.mktemp("dist")
    shutil.copytree(root, out / "checkout", symlinks=True, ignore=NOT_SOURCE)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=out / "checkout", check=True)
    (sdist,) = out.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
    subprocess.run([*pip, str(sdist)], check=True)
    (wheel,) = out.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def package(root: Path) -> set[str]:
    """Every file of the checkout's package, through the links, so the four folders and the examples are among them; not
    what an example has made."""
    package = root / "src" / "isentrope"
    folders = [package, *(package / name for name in FOLDERS)]
    files = {
        path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    files |= {path for pattern in COPIED for path in (package / EXAMPLES).rglob(pattern)}
    names = {path.relative_to(root / "src").as_posix() for path in files}
    assert {"isentrope/kernels/plain.py", "isentrope/report/page.html", "isentrope/py.typed"} <= names
    return names


def test_wheel_holds_every_file_of_the_checkouts_package(built: Built, package: set[str]) -> None:
    assert package - built.in_wheel() == set()


def test_wheel_holds_nothing_else(built: Built) -> None:
    inside = {name for name in built.in_wheel() if ".dist-info/" not in name}
    assert [name for name in inside if not name.startswith("isentrope/")] == []


def test_source_distribution_holds_the_package_and_what_builds_it(built: Built, package: set[str]) -> None:
    """No tests, no caches, nothing of a run."""
    inside = {name for name in built.in_sdist() if not name.startswith("src/isentrope.egg-info/")}
    assert {f"src/{name}" for name in package} - inside == set()
    assert {name for name in inside if not name.startswith("src/isentrope/")} == BESIDE
    assert [name for name in inside if re.search(r"__pycache__|\.pyc$|/runs/|/tests/", name)] == []


def test_what_both_say_of_themselves_is_valid_and_the_same(built: Built, root: Path) -> None:
    """By the rules of the package index; the version is that of the newest section of the changelog."""
    (inside,) = (name for name in built.in_wheel() if name.endswith(".dist-info/METADATA"))
    with tarfile.open(built.sdist) as file:
        (outside,) = (each for each in file.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", each.name))
        reader = file.extractfile(outside)
        assert reader is not None
        texts = [zipfile.ZipFile(built.wheel).read(inside), reader.read()]
    wheel, sdist = (Metadata.from_email(text, validate=True) for text in texts)
    assert (wheel.name, str(wheel.version)) == ("isentrope", isentrope.__version__)
    assert (wheel.license_expression, wheel.license_files) == ("Apache-2.0", ["LICENSE"])
    assert wheel.description == (root / "README.md").read_text(encoding="utf-8")
    assert wheel.description_content_type == "text/markdown"
    assert wheel.requires_dist == sdist.requires_dist and wheel.version == sdist.version
    released = re.findall(r"^## \[(\d\S*)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == isentrope.__version__


@pytest.mark.timeout(1800)
def test_the_wheel_trains_in_an_empty_folder(built: Built, tmp_path: Path, root: Path) -> None:
    """In an environment of its own, which has the libraries of this one and not the link to the checkout beside them:
    of a folder that is named in a `.pth` file no `.pth` files are read."""
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ISENTROPE"))}
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    subprocess.run([*pip, built.wheel], env=clean, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(each) for each in command], cwd=empty, env=clean, capture_output=True, text=True)

    found = run(python, "-c", "import isentrope.learner.records as it, sys; print(it.__file__, *sys.path, sep='\\n')")
    place, *path = map(Path, found.stdout.split("\n"))
    assert place.is_relative_to(packages) and root / "src" not in path and root not in path, found
    demo = run(environment / "bin" / "isentrope", "demo", "--batches", 2)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert [each.name for each in empty.iterdir()] == ["runs"]
    run_folder = empty / "runs" / "demo"
    assert json.loads((run_folder / "run.json").read_text())["versions"]["isentrope"] == isentrope.__version__
    assert (run_folder / "report.html").exists() and (run_folder / "final" / "config.json").exists()
