"""The command `dlq`: the dead letters of a run, from its folder or its broker, and the way back for their groups."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from isentrope import runfolder
from isentrope.console import say
from isentrope.errors import ConfigError, StorageError
from isentrope.learner.training.dead_letters import LETTERS, DeadLetter, DeadLetters, requeue_name
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.wire.control import RunState
from isentrope.run_place import RunPlace

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Requeued:
    """Answer to `requeue`, in its JSON form."""

    letter: str
    requeued: list[int]
    """Seqs whose groups will be made again."""
    before: list[int]
    """Seqs of the letter that were requeued before."""
    ended: bool
    """True: the run has ended, and they will be made when it goes on with batches that are left."""


def list_letters(place: RunPlace, as_json: bool, console: Console) -> int:
    """Print the dead letters of a run, the oldest first."""
    letters = _letters(place)
    if as_json:
        console.print_json(LETTERS.dump_json(letters).decode())
        return 0
    if not letters:
        say(console, "no dead letters")
        return 0
    table = Table("letter", "batch", "retired", "deaths", "groups", "requeued", "bytes", box=None, pad_edge=False)
    for letter in letters:
        at = datetime.fromtimestamp(letter.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        back = sum(group.requeued for group in letter.groups)
        size = sum(group.bytes for group in letter.groups)
        table.add_row(
            letter.name, str(letter.batch), at, str(letter.deaths), str(len(letter.groups)), str(back), f"{size:,}"
        )
    console.print(table, highlight=False, markup=False)
    return 0


def show_letter(place: RunPlace, name: str, as_json: bool, console: Console) -> int:
    """Print the groups of one dead letter; with their lengths, where the folder is seen."""
    letter = _chosen(_letters(place), name)
    if (folder := place.run_folder) is not None:
        letter = DeadLetters(folder).letter(letter.name)
    if as_json:
        console.print_json(letter.model_dump_json())
        return 0
    say(console, f"{letter.name}: to be batch {letter.batch}, retired after {letter.deaths} deaths of the ranks")
    table = Table("group", "by", "bytes", "responses", "longest", "requeued", box=None, pad_edge=False)
    for group in letter.groups:
        lengths = ("?" if number is None else f"{number:,}" for number in (group.responses, group.longest))
        table.add_row(str(group.seq), group.actor, f"{group.bytes:,}", *lengths, "yes" if group.requeued else "")
    console.print(table, highlight=False, markup=False)
    return 0


def requeue(place: RunPlace, name: str, seqs: Sequence[int], as_json: bool, console: Console) -> int:
    """Ask for groups of one dead letter to be made again: all, or those of `seqs`.

    Raises:
        ConfigError: there is no such letter, or no such group in it.
        StorageError: the run's folder cannot be written.
    """
    letter = _chosen(_letters(place), name)
    there = [group.seq for group in letter.groups]
    if strange := sorted(set(seqs) - set(there)):
        raise ConfigError(
            f"group {strange[0]} is not in dead letter {letter.name}",
            fix=f"give some of these: {', '.join(map(str, there))}",
        )
    before = [group.seq for group in letter.groups if group.requeued]
    wanted = [seq for seq in seqs or there if seq not in before]
    ended = _ask(place, [requeue_name(letter.name, seq) for seq in wanted])
    if as_json:
        console.print_json(json.dumps(asdict(Requeued(letter.name, wanted, before, ended))))
        return 0
    when = "the run has ended: where it goes on with more batches" if ended else "where batches are left"
    told = f"{len(wanted)} groups of {letter.name} are requeued: {when}, each is trained once"
    say(console, told + (f"; {len(before)} were requeued before" if before else ""))
    return 0


def _letters(place: RunPlace) -> tuple[DeadLetter, ...]:
    if (folder := place.run_folder) is not None:
        return DeadLetters(folder).letters()
    with _view(place) as view:
        text = view.dead_letters()
    return LETTERS.validate_json(text) if text else ()


def _chosen(letters: Sequence[DeadLetter], name: str) -> DeadLetter:
    """Return the letter of a name, or of its first characters; ConfigError if none or several are meant."""
    found = [letter for letter in letters if letter.name == name] or [
        letter for letter in letters if letter.name.startswith(name)
    ]
    if len(found) != 1:
        there = ", ".join(letter.name for letter in found or letters)
        problem = f"{len(found)} dead letters begin with {name!r}" if found else f"there is no dead letter {name!r}"
        raise ConfigError(problem, fix=f"give one of these: {there}" if there else "the run has none")
    return found[0]


def _ask(place: RunPlace, names: Sequence[str]) -> bool:
    """Ask for requeues by their names; return True if the run has ended."""
    if (folder := place.run_folder) is None:
        with _view(place) as view:
            control = view.control()
            if names:
                view.requeue(names)
            return control is not None and control.state is RunState.STOP
    letters = DeadLetters(folder)
    try:
        for name in names:
            letters.requeue(name)
    except OSError as error:
        raise StorageError(f"the groups cannot be requeued: {error.strerror or error}", fix="free the disk") from None
    return runfolder.has_ended(folder) and not runfolder.is_held(folder)


@contextlib.contextmanager
def _view(place: RunPlace) -> Iterator[RunView]:
    view = place.way(Role.OPERATOR, deadline_s=DEADLINE_S).open()
    with contextlib.closing(view.broker):
        view.spec(DEADLINE_S)  # a wrong name has no dead letters
        yield view
