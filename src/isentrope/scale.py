"""The command `scale`: another number of actors, while a run goes on."""

import contextlib
import json
import re
from dataclasses import asdict, dataclass

from rich.console import Console

from isentrope.console import say
from isentrope.errors import ConfigError
from isentrope.launch.scaling import OWN_ID, Seat, next_to_leave
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.wire.spec import RunSpec
from isentrope.run_place import RunPlace

DEADLINE_S = 10.0

_CHANGE = re.compile(r"actors=([+-]?)(\d+)")


@dataclass(frozen=True, slots=True)
class Scaling:
    """Request of an operator.

    change: `actors=N`, `actors=+K` or `actors=-K`. external: of the actors that were joined by `isentrope actor`, of
    which some are asked to leave; none can be started.
    """

    place: RunPlace
    change: str
    external: bool = False


@dataclass(frozen=True, slots=True)
class Scaled:
    """Answer to it, in its JSON form."""

    run: str
    before: int
    wanted: int
    external: list[str]
    """Actors that were joined by `isentrope actor`."""
    asked_to_leave: list[str]
    """Those of them that this command has asked to leave."""


def scale(request: Scaling, as_json: bool, console: Console) -> int:
    """Write the wanted number into the broker, where the run's command reads it, or ask external actors to leave."""
    _parsed(request.change)
    view = request.place.way(Role.OPERATOR, deadline_s=DEADLINE_S).open()
    with contextlib.closing(view.broker):
        spec = view.spec(DEADLINE_S)
        guests = [state for state in view.actors() if _is_external(state)]
        scaled = _ask_guests(request, view, spec, guests) if request.external else _want(request, view, spec, guests)
    if as_json:
        console.print_json(json.dumps(asdict(scaled)))
        return 0
    kind = "external actors" if request.external else "actors"
    left = f", and {', '.join(scaled.asked_to_leave)} asked to leave" if scaled.asked_to_leave else ""
    others = "" if request.external else f"; {len(guests)} more were joined by `isentrope actor`"
    line = f"{scaled.run}: {scaled.wanted} {kind} are wanted, before it were {scaled.before}{left}"
    say(console, line + (others if guests else ""))
    return 0


def changed(change: str, before: int) -> int:
    """Return the number of actors after a change; ConfigError if it is not one."""
    sign, by = _parsed(change)
    wanted = {"": by, "+": before + by, "-": before - by}[sign]
    if wanted < 0:
        raise ConfigError(f"{change} of {before} actors leaves fewer than none", fix=f"write actors=-{before} at most")
    return wanted


def _parsed(change: str) -> tuple[str, int]:
    found = _CHANGE.fullmatch(change.replace(" ", ""))
    if found is None:
        raise ConfigError(f"{change!r} is not a number of actors", fix="write actors=4, actors=+1 or actors=-1")
    return found[1], int(found[2])


def _want(request: Scaling, view: RunView, spec: RunSpec, guests: list[ActorState]) -> Scaled:
    desired = view.desired()
    before = desired.actors if desired is not None else _number(spec, "count")
    wanted = changed(request.change, before)
    least, most = _number(spec, "min"), spec.actors.get("max")
    if wanted < least or (isinstance(most, int) and wanted > most):
        bound = f"actors.min = {least}" if wanted < least else f"actors.max = {most}"
        raise ConfigError(f"{wanted} actors are beyond {bound} of the run", fix="change it and start the command again")
    view.want(wanted)
    return Scaled(spec.run, before, wanted, [state.id for state in guests], [])


def _ask_guests(request: Scaling, view: RunView, spec: RunSpec, guests: list[ActorState]) -> Scaled:
    wanted = changed(request.change, len(guests))
    if wanted > len(guests):
        raise ConfigError(
            f"there are {len(guests)} external actors, and this command starts none",
            fix="start them where they shall run: isentrope actor",
        )
    seats = {
        Seat(number, state.state is ActorStage.SERVING, state.leases): state for number, state in enumerate(guests)
    }
    leaving: list[str] = []
    while len(seats) > wanted:
        leaving.append(seats.pop(next_to_leave(seats)).id)
    view.ask_to_leave(leaving, float(str(spec.actors["drain_s"])))
    return Scaled(spec.run, len(guests), wanted, [state.id for state in guests], leaving)


def _is_external(state: ActorState) -> bool:
    return OWN_ID.fullmatch(state.id) is None and state.state not in (ActorStage.GONE, ActorStage.DRAINING)


def _number(spec: RunSpec, key: str) -> int:
    value = spec.actors.get(key)
    assert isinstance(value, int)
    return value
