"""Who is late, and which key of the run file gives it more time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_records import make_outcome, make_row
from wire_records import ASYNC, make_spec

from isentrope.config import Config, load
from isentrope.errors import FencedError, UnreachableError
from isentrope.launch import supervisor
from isentrope.launch.supervisor import Supervisor
from isentrope.learner import json_files
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.placement_record import PlacementRecord
from isentrope.learner.records import BatchRow, Notice, Outcome
from isentrope.learner.training.journal import Journal
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorState
from isentrope.rollout.wire.control import RunState


def test_lines_of_the_learner_are_shown_once_and_its_warnings_below_their_batch(run_file: Path) -> None:
    config, _ = load(run_file)
    folder, shown = run_file.parent, list[str]()
    started: Any = SimpleNamespace(
        revive_broker=lambda: False,
        spec=SimpleNamespace(output_dir=str(folder)),
        config=config,
        view=SimpleNamespace(control=lambda: None, weights=lambda: None, actors=list[object], incarnation=lambda: 0),
        actors=SimpleNamespace(leave=lambda within_s: None),
        scaler=SimpleNamespace(note=lambda line: None),
    )
    progress: Any = SimpleNamespace(
        batch=lambda line, batches: shown.append(f"batch {line.batch}"),
        note=shown.append,
        evaluation=lambda line: shown.append(f"evaluation {line.batch}"),
        waiting=lambda waits: None,
    )
    Journal(folder, Notice).append(Notice(at=1.0, text="of an earlier command"))
    supervisor = Supervisor(started, SimpleNamespace(asked=False), progress)  # type: ignore[arg-type]
    Journal(folder, BatchRow).append(make_row(1))
    Journal(folder, Notice).append(Notice(at=2.0, text="100 % of it"))
    json_files.write(folder, make_outcome())
    started.learner = SimpleNamespace(has_ended=True, failure=lambda: None)
    supervisor.watch()
    assert shown == ["batch 1", "warning: 100 % of it"]


def test_a_fenced_learner_ends_the_command_by_its_own_code_whatever_outcome_lies_there(run_file: Path) -> None:
    config, _ = load(run_file)
    fenced = FencedError("fenced: learner 3 took over from 2")
    started: Any = SimpleNamespace(
        spec=SimpleNamespace(output_dir=str(run_file.parent)),
        config=config,
        learner=SimpleNamespace(has_ended=True, failure=lambda: fenced),
    )
    json_files.write(run_file.parent, make_outcome())
    with pytest.raises(FencedError, match="learner 3 took over"):
        Supervisor(started, SimpleNamespace(asked=False), SimpleNamespace()).watch()  # type: ignore[arg-type]
    assert fenced.exit_code == 75


def test_a_learner_that_does_not_open_the_run_is_given_its_own_key_and_not_the_actors(run_file: Path) -> None:
    config = late_at_once(run_file, "actors.start_timeout_s=1000")
    started: Any = SimpleNamespace(
        revive_broker=lambda: False,
        spec=SimpleNamespace(output_dir=str(run_file.parent)),
        config=config,
        view=SimpleNamespace(control=lambda: None, weights=lambda: None, actors=list[object], incarnation=lambda: 0),
        learner=SimpleNamespace(has_ended=False, tend=list[str], starts_again=False),
        ray=SimpleNamespace(is_lost=False),
    )
    interrupts: Any = SimpleNamespace(asked=False)
    progress: Any = SimpleNamespace()
    with pytest.raises(UnreachableError, match="learner has not opened the run") as raised:
        Supervisor(started, interrupts, progress).watch()
    assert "raise learner.start_timeout_s" in raised.value.fix and "learner-0.log" in raised.value.fix


def late_at_once(run_file: Path, *overrides: str) -> Config:
    """Configuration of a learner that has no time at all to open the run."""
    config, _ = load(run_file, overrides)
    return config.model_copy(update={"learner": config.learner.model_copy(update={"start_timeout_s": 0.0})})


class Looks:
    """What the command sees of a run, look after look; also its learner, which ends after the last one."""

    def __init__(self, run_file: Path, *controls: object, starts_again: bool = False) -> None:
        config = late_at_once(run_file)
        self._controls, self._left = [*controls, controls[-1]], len(controls)
        self._now: Any = None
        self.asked, self.asks_when_empty, self.requests = False, False, list[str]()
        self.starts_again = starts_again
        self.run: Any = SimpleNamespace(
            revive_broker=lambda: False,
            spec=SimpleNamespace(output_dir=str(run_file.parent)),
            config=config,
            view=SimpleNamespace(
                control=self._control,
                weights=lambda: None,
                actors=list[object],
                incarnation=lambda: 1,
                ask_to_stop=self._ask_to_stop,
            ),
            actors=SimpleNamespace(
                ended=[],
                leave=lambda within_s: None,
                tend=lambda states: [],
                unready=lambda states: [],
                record=lambda: PlacementRecord(wanted=1, waits="", actors={}),
            ),
            scaler=SimpleNamespace(note=lambda line: None, look=lambda states: []),
            learner=self,
            model=None,
            ray=SimpleNamespace(is_lost=False),
        )

    def opened(self, incarnation: int) -> None: ...

    def tend(self) -> list[str]:
        return []

    def failure(self) -> None: ...

    @property
    def has_ended(self) -> bool:
        self._left -= 1
        return self._left < 0

    def _control(self) -> object:
        shown = self._controls.pop(0)
        self.asked |= self.asks_when_empty and shown is None
        self._now = shown
        return shown

    def _ask_to_stop(self) -> bool:
        """As `RunView` does."""
        asks = self._now is not None and not self._now.requested_stop
        self.requests += ["stop"] * asks
        return asks

    def watch(self) -> Outcome:
        progress: Any = SimpleNamespace(note=lambda line: None, waiting=lambda waits: None)
        return Supervisor(self.run, self, progress).watch()  # type: ignore[arg-type]


OPEN, ASKED = (SimpleNamespace(state=RunState.RUN, requested_stop=asked) for asked in (False, True))


@pytest.mark.parametrize("asks", [False, True])
def test_a_broker_that_comes_back_empty_is_not_a_run_that_was_never_opened(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """Neither is the run late, however long the command is up, nor was nothing trained."""
    monkeypatch.setattr(supervisor, "INTERVAL_S", 0.0)
    looks = Looks(run_file, OPEN, None, OPEN, ASKED)
    looks.asks_when_empty = asks
    outcome = make_outcome(batches=7)
    json_files.write(run_file.parent, outcome)
    assert looks.watch() == outcome
    assert looks.requests == ["stop"] * asks, "once there is a learner that reads it"


def test_a_stop_that_the_broker_has_lost_is_asked_again(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "INTERVAL_S", 0.0)
    looks = Looks(run_file, OPEN, ASKED, None, OPEN, ASKED)
    looks.asked = True
    json_files.write(run_file.parent, make_outcome())
    looks.watch()
    assert looks.requests == ["stop"] * 2


def test_a_private_broker_that_has_died_is_started_again_before_it_is_asked(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call to a dead one is repeated for seconds, in which nothing is trained."""
    monkeypatch.setattr(supervisor, "INTERVAL_S", 0.0)
    looks, alive = Looks(run_file, OPEN, OPEN, OPEN), iter([True, False, True])
    control, states = looks.run.view.control, list[bool]()

    def revive() -> bool:
        states.append(next(alive, True))
        return not states[-1]

    def asked() -> object:
        assert states[-1:] == [True], "asked a broker that may have died"
        return control()

    looks.run.revive_broker, looks.run.view.control = revive, asked
    json_files.write(run_file.parent, make_outcome())
    assert looks.watch() == make_outcome()
    (outage,) = json_files.read_lines(run_file.parent, OutageRow)
    assert outage.role == "broker" and states[:3] == [True, False, True]


def test_ranks_that_die_before_they_open_the_run_have_a_limit_of_their_own(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "INTERVAL_S", 0.0)
    looks = Looks(run_file, None, starts_again=True)
    json_files.write(run_file.parent, make_outcome())
    assert looks.watch() == make_outcome()


def test_a_lost_ray_ends_the_run_with_an_outcome_after_the_learner_has_stopped(run_file: Path) -> None:
    config, _ = load(run_file)
    folder, asked = run_file.parent, list[str]()
    control = SimpleNamespace(state=RunState.RUN)

    def ask_to_stop() -> bool:
        outcome = json_files.read(folder, Outcome)
        assert outcome is not None and outcome.exit_code == 69, "recorded first: Ray may end the command meanwhile"
        asked.append("stop")
        control.state = RunState.STOP
        json_files.write(folder, make_outcome(status="stopped", batches=7))
        return True

    view: Any = SimpleNamespace(
        control=lambda: control,
        weights=lambda: None,
        actors=list[object],
        incarnation=lambda: 1,
        ask_to_stop=ask_to_stop,
    )
    started: Any = SimpleNamespace(
        revive_broker=lambda: False,
        spec=SimpleNamespace(output_dir=str(folder)),
        config=config,
        view=view,
        learner=SimpleNamespace(has_ended=False),
        ray=SimpleNamespace(is_lost=True, place="Ray at this machine"),
    )
    progress: Any = SimpleNamespace(note=lambda line: None)
    with pytest.raises(UnreachableError, match="control store") as raised:
        Supervisor(started, SimpleNamespace(asked=False), progress).watch()  # type: ignore[arg-type]
    outcome = json_files.read(folder, Outcome)
    assert outcome is not None and (outcome.status, outcome.exit_code, outcome.batches) == ("error", 69, 7)
    assert "same command" in raised.value.fix and asked == ["stop"]


@pytest.mark.parametrize(
    ("starts_again", "line"), [(True, "the learner's ranks start again"), (False, "learner is silent for 84 s")]
)
def test_ranks_that_start_again_are_what_is_waited_for_and_not_the_silence_of_the_dead(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, starts_again: bool, line: str
) -> None:
    config, _ = load(run_file)
    folder, shown, ends = run_file.parent, list[list[str]](), iter([False, True])
    monkeypatch.setattr(supervisor, "why_waiting", lambda view, spec: "learner is silent for 84 s")

    class Learner:
        """Ranks whose end is seen at the second look."""

        has_ended = property(lambda self: next(ends))

        def __init__(self) -> None:
            self.starts_again = starts_again

        def opened(self, incarnation: int) -> None: ...

        def tend(self) -> list[str]:
            return []

        def failure(self) -> None: ...

    started: Any = SimpleNamespace(
        revive_broker=lambda: False,
        spec=SimpleNamespace(output_dir=str(folder)),
        config=config,
        view=SimpleNamespace(
            control=lambda: SimpleNamespace(state=RunState.RUN),
            weights=lambda: object(),
            actors=list[object],
            incarnation=lambda: 1,
        ),
        actors=SimpleNamespace(
            ended=[],
            leave=lambda within_s: None,
            tend=lambda states: [],
            record=lambda: PlacementRecord(wanted=1, waits="", actors={}),
        ),
        scaler=SimpleNamespace(note=lambda line: None, look=lambda states: []),
        learner=Learner(),
        ray=SimpleNamespace(is_lost=False),
    )
    json_files.write(folder, make_outcome())
    progress: Any = SimpleNamespace(note=lambda line: None, waiting=shown.append)
    Supervisor(started, SimpleNamespace(asked=False), progress).watch()  # type: ignore[arg-type]
    assert shown[0] == [line]


def test_orders_of_an_actor_that_was_seen_to_end_go_to_others_without_waiting_for_its_silence(
    run_file: Path, redis_server: str, run_name: str
) -> None:
    """Its silence would be noticed within three heartbeats of an hour each."""
    broker = Broker.connect(redis_server, run_name)
    spec = make_spec(run_name, heartbeat_s=3600.0, output_dir=str(run_file.parent))
    learner = LearnerPort.fence(broker, 1, 0, 0, spec, ASYNC)
    learner.issue(trained_batches=0, retired=0, limit=3)
    for name, orders in (("a1", 2), ("a2", 1)):
        actor = ActorPort(broker, name, spec)
        assert actor.heartbeat(ActorState(id=name, boot=f"boot of {name}"))
        assert len(actor.take(orders, 0.0)) == orders
    looks = Looks(run_file, OPEN)
    looks.run.spec, looks.run.view.broker, looks.run.actors.ended = spec, broker, ["boot of a1"]
    json_files.write(run_file.parent, make_outcome())
    looks.watch()
    assert learner.view.queues() == {**learner.view.queues(), "waiting": 2, "leased": 1}
    assert looks.run.actors.ended == []
    broker.close()
