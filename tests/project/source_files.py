"""One source file of the program, parsed once; and where the folders are."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("actors", "kernels", "learner", "rollout")
EXAMPLES = "examples"
"""Folder of what `isentrope init` writes, linked into the package as the four are."""


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
