"""The commands that print what this program knows, without a run: methods, and the entries of the handbook."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from isentrope.console import say


def list_methods(as_json: bool, console: Console) -> int:
    """Print the presets by family, and the needs of some that this version cannot supply."""
    from isentrope import methods

    known = methods.list_methods()
    if as_json:
        return _print_json(console, [asdict(info) for info in known])
    for family, title in methods.FAMILIES.items():
        table = Table("method", "year", "what differs, and when it acts", box=None, pad_edge=False)
        for info in known:
            if info.family == family and not info.missing:
                links = " ".join(link.removeprefix("https://arxiv.org/abs/") for link in info.paper.split())
                table.add_row(info.name, str(info.year), f"{info.differs} {info.acts} ({links})")
        if table.rows:
            console.print(f"{title}\n", style="bold", highlight=False)
            console.print(table, "", highlight=False)
    lacking = Table("cannot start", "needs", "what differs", box=None, pad_edge=False)
    for info in known:
        if info.missing:
            lacking.add_row(info.name, " and ".join(info.missing), info.differs)
    console.print("Refused, because this version cannot supply what they need:\n", highlight=False)
    console.print(lacking, highlight=False)
    return 0


def show_method(names: Sequence[str], console: Console) -> int:
    """Print presets merged into one objective, and which of them set each key; it is TOML."""
    from isentrope import methods

    say(console, methods.show(names, Path.cwd()))
    return 0


def show_matrix(as_json: bool, console: Console) -> int:
    """Print which presets can be merged, and why others cannot."""
    from isentrope import methods

    pairs = methods.matrix()
    if as_json:
        return _print_json(console, [asdict(pair) for pair in pairs])
    say(console, methods.matrix_text(pairs))
    return 0


def explain(name: str, as_json: bool, console: Console) -> int:
    """Print the entries of a name, or all names."""
    from isentrope.handbook.catalogue import catalogue, find
    from isentrope.handbook.show import show, show_names

    if as_json:
        return _print_json(console, [asdict(entry) for entry in (find(name) if name else catalogue())])
    if name:
        show(name, console)
    else:
        show_names(console)
    return 0


def _print_json(console: Console, facts: Sequence[object]) -> int:
    console.print_json(json.dumps(facts))
    return 0
