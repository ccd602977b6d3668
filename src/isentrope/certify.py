"""The command `isentrope methods certify`: whether what a method computes depends on how its batch is divided."""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from isentrope.console import say, working
from isentrope.environment import hide_gpus, set_defaults
from isentrope.learner.config import LearnerConfig

if TYPE_CHECKING:
    from isentrope.learner.training.certificate import Case

RANKS = (1, 2, 4)
DIFFERENT = 1
"""Exit code if a method's results depend on the division."""
INTERVAL_S = 0.5
EXCEPTED = (
    'what sets `stats = "microbatch"` is excepted: by it a selection is of each micro-batch alone, as in the code that '
    "some papers published; no preset sets it"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Presets and divisions to be certified. methods: presets; empty: all. ranks: the first must be 1. sizes: responses
    per micro-batch; None: all that there are. overrides: keys of the objective over each preset's."""

    methods: tuple[str, ...] = ()
    ranks: tuple[int, ...] = RANKS
    sizes: tuple[int, ...] | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Every case of every method that could be examined. lacking: needs of the others, by method."""

    cases: tuple["Case", ...]
    lacking: Mapping[str, tuple[str, ...]]

    @property
    def different(self) -> tuple["Case", ...]:
        """The cases that differ from the whole batch at once; empty: it holds."""
        return tuple(case for case in self.cases if case.differs)


def certify(methods: Sequence[str], as_json: bool, console: Console) -> int:
    """Print what differs of presets; return 0 if no result depends on the division."""
    with working(console, "the ranks start", quiet=as_json) as tell:
        found = examined(Wanted(tuple(methods)), tell)
    if as_json:
        console.print_json(json.dumps(facts(found)))
    else:
        _show(found, console)
    return DIFFERENT if found.different else 0


def examined(wanted: Wanted, tell: Callable[[str], None] = lambda text: None) -> Certificate:
    """Return the certificate, from one launch of ranks after another; `tell` takes what happens.

    Raises:
        ConfigError: there is no such method.
    """
    set_defaults(offline=True)
    hide_gpus()
    from isentrope.launch.local_ranks import LocalRanks
    from isentrope.learner.objective.presets import method_names
    from isentrope.learner.objective.schema import unknown
    from isentrope.learner.training import certificate, certificate_batch

    known = method_names()
    for name in wanted.methods:
        if name not in known:
            raise unknown("method", name, known, "NAMES")
    with _folder() as folder:
        certificate_batch.write(folder)
        names = tuple(dict.fromkeys(wanted.methods)) or tuple(known)
        lacking = {
            name: needs
            for name in names
            if (needs := certificate.lacking(certificate.objective_of(name, wanted.overrides, folder)))
        }
        sizes = certificate.SIZES if wanted.sizes is None else wanted.sizes
        divisions = tuple(each for each in certificate.DIVISIONS if each.size in sizes)
        chosen = tuple(name for name in names if name not in lacking)
        request = certificate.Request(folder, chosen, divisions, wanted.overrides)
        total = len(wanted.ranks) * len(request.methods) * len(request.divisions)
        for ranks in wanted.ranks:
            place = folder / f"ranks-{ranks}"
            place.mkdir()
            config = LearnerConfig(ranks=ranks)
            with LocalRanks(config, functools.partial(certificate.examine, request), place, place) as running:
                while not running.wait(INTERVAL_S):
                    tell(f"{ranks} ranks: {len(certificate.cases(folder))} of {total} trainings")
                running.result()
        return Certificate(tuple(certificate.cases(folder)), lacking)


def facts(found: Certificate) -> dict[str, object]:
    """Return the certificate as JSON."""
    cases = [asdict(case) | {"differs": case.differs} for case in found.cases]
    return {"holds": not found.different, "cases": cases, "lacking": found.lacking, "excepted": EXCEPTED}


def rows(found: Certificate) -> Iterator[tuple[str, str, str, str]]:
    """Yield, for each method, its name, its trainings, the largest difference of a gradient, and what differs."""
    for name in dict.fromkeys(case.method for case in found.cases):
        own = [case for case in found.cases if case.method == name]
        worst = max(case.gradient for case in own)
        yield (
            name,
            str(len(own)),
            f"{worst:.1e}",
            "; ".join(map(text_of, filter(lambda c: c.differs, own))) or "nothing",
        )


def text_of(case: "Case") -> str:
    """Return what differs in a case."""
    sets = [f"{count} tokens of `{name}`" for name, count in case.sets.items()]
    parts = [*sets, f"gradient {case.gradient:.1e}"]
    size = case.size or "all"
    return f"{case.ranks} ranks, {size} responses per micro-batch, {case.packing}: {', '.join(parts)}"


def _show(found: Certificate, console: Console) -> None:
    table = Table("method", "trainings", "gradient by at most", "differs", box=None, pad_edge=False)
    for row in rows(found):
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)
    for name, needs in found.lacking.items():
        say(console, f"{name}: not examined, its small batch lacks {' and '.join(needs)}")
    say(console, EXCEPTED)
    say(console, f"{len(found.different)} of {len(found.cases)} trainings differ from the whole batch at once")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isentrope-certify-") as name:
        yield Path(name)
