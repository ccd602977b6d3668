"""Lines on a console as they are: a path or a message may hold what rich would take for markup, colour or break, and a
terminal for a command."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from rich.console import Console
from rich.markup import escape

from isentrope.long_waits import waiting_for
from isentrope.rollout.wire.plain_text import inactive


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line without markup, colours of its words, and breaks."""
    console.print(inactive(line), highlight=False, markup=False, soft_wrap=True, style=style or None)


def say_beside(line: str) -> None:
    """Print a line where errors are printed: a program may read the output."""
    say(Console(stderr=True), line)


def tell(console: Console, as_json: bool, line: str, facts: Mapping[str, object]) -> int:
    """Print a line, or its facts as JSON; return the exit code of success."""
    if as_json:
        console.print_json(json.dumps(facts))
    else:
        say(console, line)
    return 0


@contextlib.contextmanager
def working(console: Console, what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show what is waited for while the block runs: on a terminal at once, elsewhere as a line once it takes long,
    beside the output if that must be `quiet`. Yield a function that changes the text of the terminal."""
    if console.is_terminal and not quiet:
        with console.status(escape(what)) as status:
            yield lambda text: status.update(escape(text))
    else:
        with waiting_for(what, say_beside if quiet else partial(say, console)):
            yield lambda text: None
