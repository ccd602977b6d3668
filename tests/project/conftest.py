"""The program's own source files, parsed once."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("actors", "kernels", "learner", "rollout")


@dataclass(frozen=True)
class Source:
    """One file. `name` is its path from the root; `folder` is one of the four, or `isentrope` for what binds them."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def folder(self) -> str:
        first = self.path.relative_to(ROOT).parts[0]
        return first if first in FOLDERS else "isentrope"

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), filename=str(self.path))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """All Python files of the program, each once (the links in `src/isentrope` lead to the four folders)."""
    bound = [path for path in (ROOT / "src" / "isentrope").rglob("*.py") if not _linked(path)]
    real = [path for name in FOLDERS for path in (ROOT / name).rglob("*.py")]
    return [Source(path) for path in sorted(bound + real)]


def _linked(path: Path) -> bool:
    return path.relative_to(ROOT / "src" / "isentrope").parts[0] in FOLDERS
