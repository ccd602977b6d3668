"""The examples that ship with the program, and what puts one into a folder of the user's."""

import re
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import ConfigError, nearest

EXAMPLES = Path(__file__).with_name("examples")
"""A folder each. What `MAKER` leaves there, in a checkout, is not copied."""

MAKER = "make_data.py"
"""Makes an example's data, and a model to start from, beside itself."""

COPIED = ("*.md", "*.toml", "*.py", "*.txt")


@dataclass(frozen=True, slots=True)
class Example:
    """An example. sentence: what it shows. commands: what to type in its folder, as its README has it."""

    name: str
    sentence: str
    commands: tuple[str, ...]


def examples() -> list[Example]:
    """Return all examples, by name."""
    return [_example(page) for page in sorted(EXAMPLES.glob("*/README.md"))]


def write(name: str, folder: Path) -> Example:
    """Write the example `name` with its data into `folder`, and return it; ConfigError if the folder holds anything."""
    known = {example.name: example for example in examples()}
    example = known.get(name.replace("-", "_"))
    if example is None:
        close = nearest(name, known)
        raise ConfigError(
            f"there is no example {name!r}; there are: {', '.join(known)}",
            fix=f"isentrope init {close}" if close else "",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is not an empty folder: an example overwrites nothing",
            fix=f"name another folder; if an earlier command was interrupted there: python {MAKER}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED:
        for file in (EXAMPLES / example.name).glob(pattern):
            shutil.copyfile(file, folder / file.name)
    runpy.run_path(str(folder / MAKER), run_name="__main__")
    return example


def _example(page: Path) -> Example:
    """Read an example's README: its first sentence, and its first block of commands but for `init` and `cd`."""
    _, paragraph, block, *_ = page.read_text(encoding="utf-8").split("\n\n")
    _init, _cd, *commands = block.removeprefix("```sh\n").removesuffix("```").splitlines()
    sentence = re.match(r".*?\.(?=\s|$)", paragraph, re.DOTALL)
    assert sentence is not None, f"{page} begins with a sentence"
    return Example(page.parent.name, sentence[0].replace("\n", " "), tuple(commands))
