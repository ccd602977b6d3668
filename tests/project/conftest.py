"""The program's own source files."""

from pathlib import Path

import pytest
from source_files import EXAMPLES, FOLDERS, ROOT, Source


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """All Python files of the program, each once (the links in `src/isentrope` lead to them)."""
    bound = [path for path in (ROOT / "src" / "isentrope").rglob("*.py") if not _linked(path)]
    real = [path for name in (*FOLDERS, EXAMPLES) for path in (ROOT / name).rglob("*.py")]
    return [Source(path) for path in sorted(bound + real)]


def _linked(path: Path) -> bool:
    return path.relative_to(ROOT / "src" / "isentrope").parts[0] in (*FOLDERS, EXAMPLES)
