"""Lines on a console as they are: a path or a message may hold what rich would take for markup, colour or break, and a
terminal for a command."""

import json
from collections.abc import Mapping

from rich.console import Console

from isentrope.rollout.wire.plain_text import inactive


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line without markup, colours of its words, and breaks."""
    console.print(inactive(line), highlight=False, markup=False, soft_wrap=True, style=style or None)


def tell(console: Console, as_json: bool, line: str, facts: Mapping[str, object]) -> int:
    """Print a line, or its facts as JSON; return the exit code of success."""
    if as_json:
        console.print_json(json.dumps(facts))
    else:
        say(console, line)
    return 0
