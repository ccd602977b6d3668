"""Folders at the root, one package: what would break silently if a file were added or a link were lost."""

from pathlib import Path

import pytest
from source_files import EXAMPLES, FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_is_no_package_of_its_own(root: Path, name: str) -> None:
    """With an `__init__.py`, `kernels` on the path would hide the library of that name from transformers and vLLM."""
    assert not (root / name / "__init__.py").exists()


@pytest.mark.parametrize("name", [*FOLDERS, EXAMPLES])
def test_folder_is_linked_into_the_package(root: Path, name: str) -> None:
    link = root / "src" / "isentrope" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", "..", name)
    assert link.resolve() == root / name


@pytest.mark.parametrize("name", FOLDERS)
def test_packages_below_a_folder_have_an_init(root: Path, name: str) -> None:
    """Without one, setuptools leaves the folder out of the wheel."""
    packages = {path.parent for path in (root / name).rglob("*.py")} - {root / name}
    assert {path for path in packages if not (path / "__init__.py").exists()} == set()


def test_tests_have_no_init(root: Path) -> None:
    """Test modules are imported by path; a package would shadow the product's folder of the same name."""
    assert list((root / "tests").rglob("__init__.py")) == []
