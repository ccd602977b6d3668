"""Lines on a console as they are: a path or a message may hold what rich would take for markup, colour or break."""

from rich.console import Console


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line without markup, colours of its words, and breaks."""
    console.print(line, highlight=False, markup=False, soft_wrap=True, style=style or None)
