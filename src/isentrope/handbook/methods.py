"""Entries of the methods, from the heads of their presets."""

import tomllib
from importlib.resources import files

from isentrope.handbook.entry import HelpEntry, Sort


def methods() -> list[HelpEntry]:
    """Return the presets that come with the package. `isentrope methods show NAME` shows what they set."""
    folder = files("isentrope").joinpath("learner", "methods")
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)
    return [_entry(path.name.removesuffix(".toml"), path.read_text(encoding="utf-8")) for path in paths]


def _entry(name: str, text: str) -> HelpEntry:
    head = tomllib.loads(text)
    return HelpEntry(Sort.METHOD, name, f"{head['name']}. {head['differs']} {head['acts']} {head['paper']}", "methods")
