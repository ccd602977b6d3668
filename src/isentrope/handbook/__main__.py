"""Write the generated files of a checkout: `python -m isentrope.handbook [FOLDER]`, by default of the one it is given
in."""

import sys
from pathlib import Path

from isentrope.handbook import pages
from isentrope.rollout.broker import access


def write(root: Path) -> None:
    """Write the generated pages, and the users of a broker, below a folder."""
    for name, text in (
        ("docs/configuration.md", pages.configuration()),
        ("docs/metrics.md", pages.metrics()),
        ("deploy/redis/users.acl", access.template()),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(*sys.argv[1:2]))
