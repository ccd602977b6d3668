"""Write the generated pages: `python -m isentrope.handbook [FOLDER]`, by default into `docs`."""

import sys
from pathlib import Path

from isentrope.handbook import pages


def write(folder: Path) -> None:
    """Write both pages into a folder."""
    (folder / "configuration.md").write_text(pages.configuration(), encoding="utf-8")
    (folder / "metrics.md").write_text(pages.metrics(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(*sys.argv[1:2]) if sys.argv[1:] else Path("docs"))
