"""All entries together, and how one of them is found by its name or by a name that resembles it."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache

from isentrope.errors import ConfigError, nearest
from isentrope.handbook.entry import HelpEntry, Sort
from isentrope.handbook.exit_codes import exit_codes
from isentrope.handbook.keys import run_file_keys
from isentrope.handbook.methods import methods
from isentrope.handbook.outputs import outputs
from isentrope.handbook.stages import stages

OBJECTIVE = "learner.objective."
"""Prefix of stages and their keys in a run file; entries go without it."""


@cache
def catalogue() -> tuple[HelpEntry, ...]:
    """Return every entry, those of stages' keys behind their stage."""
    found = list(run_file_keys())
    for stage in stages():
        found += [stage, *stage.keys]
    return (*found, *outputs(), *methods(), *exit_codes())


def find(asked: str) -> list[HelpEntry]:
    """Return the entries of a name: a whole one, its last parts, or the heading that entries stand under.

    ConfigError with the nearest name if there are none.
    """
    name = normal(asked)
    found = [entry for entry in catalogue() if any(_fits(name, each) for each in _names(entry))]
    found += [entry for entry in catalogue() if entry.group == name and entry not in found]
    if not found:
        raise _unknown(asked, name)
    return sorted(found, key=lambda entry: (not is_meant(entry, name), entry.sort is not Sort.KEY))


def is_meant(entry: HelpEntry, name: str) -> bool:
    """Return True for an entry of just this name, and for a key of the run file that ends in it."""
    of_stage = bool(entry.written)
    return entry.name == name or (entry.sort is Sort.KEY and not of_stage and entry.name.endswith(f".{name}"))


def normal(asked: str) -> str:
    """Return a name as entries have it, of one as a run file, TensorBoard or Prometheus has it."""
    return asked.strip().replace("/", ".").removeprefix(OBJECTIVE).removesuffix(".kind")


def _names(entry: HelpEntry) -> Iterator[str]:
    """Yield what an entry may be asked for by; a stage's key also as the run file has it, without its stage."""
    yield entry.name
    if entry.sort is Sort.KEY:
        dimension, _, _ = entry.group.rpartition(".")
        yield f"{dimension}.{entry.name.rpartition('.')[2]}"


def _fits(asked: str, name: str) -> bool:
    return (
        name == asked
        or name.endswith(f".{asked}")
        or ("*" in name and fnmatchcase(asked.rpartition(".")[2], name.rpartition(".")[2]))
    )


def _unknown(asked: str, name: str) -> ConfigError:
    names = {entry.name: entry.name for entry in catalogue()} | {entry.group: entry.group for entry in catalogue()}
    last = {entry.name.rpartition(".")[2] for entry in catalogue()}
    close = nearest(name, names) if "." in name else nearest(name, {*last, *names})
    fix = f"did you mean `{close}`?" if close else "`isentrope help` lists all names"
    return ConfigError(f"nothing is called `{asked}`: no key, stage, output, method or exit code", fix=fix)
