"""Entries on a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isentrope.handbook.catalogue import catalogue, find, is_meant, normal
from isentrope.handbook.entry import HelpEntry, Sort

WHOLE = 3
"""Entries that are shown whole; of more, only the keys of that name and what was asked for by its whole name are."""

TITLES = {
    Sort.KEY: "Keys of the run file, by table",
    Sort.STAGE: "Stages, by table of [learner.objective]",
    Sort.OUTPUT: "Outputs, by file of the run's folder",
    Sort.METHOD: "Methods",
    Sort.EXIT_CODE: "Exit codes",
}


def show(asked: str, console: Console) -> None:
    """Print the entries of a name; ConfigError if there are none."""
    found = find(asked)
    whole = found if len(found) <= WHOLE else [entry for entry in found if is_meant(entry, normal(asked))]
    shown = [*whole, *(key for entry in whole for key in entry.keys)]
    for entry in whole:
        _print_whole(entry, console)
    if rest := [entry for entry in found if entry not in shown]:
        console.print(_lines((entry.name, first_sentence(entry.text)) for entry in rest))


def show_names(console: Console) -> None:
    """Print what can be asked for."""
    entries = catalogue()
    of_stages = {key for entry in entries for key in entry.keys}
    for sort, title in TITLES.items():
        console.print(Text(title, style="bold"))
        listed = [entry for entry in entries if entry.sort is sort and entry not in of_stages]
        if sort is Sort.EXIT_CODE:
            lines = [(entry.name, first_sentence(entry.text)) for entry in listed]
        else:
            lines = [(group, ", ".join(names)) for group, names in _names(listed).items()]
        console.print(Padding(_lines(lines), (0, 0, 1, 2), expand=False))
    console.print(Text("isentrope help NAME explains one of them."))


def first_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence."""
    return text.partition("\n")[0].partition(". ")[0].rstrip(".") + "."


def facts(entry: HelpEntry) -> str:
    """Return type, bounds and default of an entry on one line."""
    default = f"default {entry.default}" if entry.default else ""
    return "; ".join(filter(None, (entry.value, default)))


def _print_whole(entry: HelpEntry, console: Console) -> None:
    where = f", {entry.group}" if entry.sort is Sort.OUTPUT else ""
    console.print(Text.assemble((entry.name, "bold"), "  ", (f"{entry.sort}{where}", "dim")))
    cyan = [Text(line, style="cyan") for line in (entry.written, facts(entry)) if line]
    for text in [*cyan, Text(entry.text)]:
        console.print(Padding(text, (0, 0, 0, 2), expand=False))
    for key in entry.keys:
        name = Text.assemble((key.name.removeprefix(f"{entry.name}."), "bold"), "  ", (facts(key), "cyan"))
        console.print(Padding(name, (1, 0, 0, 2), expand=False))
        console.print(Padding(Text(key.text), (0, 0, 0, 4), expand=False))
    console.print()


def _lines(lines: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in lines:
        table.add_row(Text(name, style="bold"), Text(text))
    return table


def _names(entries: Iterable[HelpEntry]) -> dict[str, list[str]]:
    """Return the last part of each name, by heading; a heading that is an entry itself is not repeated."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.name != entry.group:
            found.setdefault(entry.group, []).append(entry.name.removeprefix(f"{entry.group}."))
    return found
