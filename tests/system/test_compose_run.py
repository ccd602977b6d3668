"""The pair of `deploy/runs` by the services of `deploy/compose`: each enters the broker by the secrets that it is
given, and a Prometheus scrapes the run from its first minutes, in which nobody serves it, to its end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from board_picture import draw
from compose_services import ComposeServices
from machines import ROOT
from monitoring import STEP_S, Prometheus
from waits import wait_until
from whole_commands import BOOT_S, batches

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

CHANGES = ("learner.batches=20", "learner.eval_every=10", "data.eval_prompts=16", "data.eval_samples=2")
"""More batches than in the file, for the curves; smaller evaluations."""

PICTURE = ROOT / "docs" / "results" / "board.png"

NOBODY = "IsentropeNobodyServes"

FIRES = f'ALERTS{{alertname="{NOBODY}",run="$run",alertstate="firing"}}'

STOPPED = 'isentrope_state{run="$run",state="stop"} == 1'


@dataclass
class Story:
    """What was seen."""

    prometheus: Prometheus
    start: float
    """Time before the first scrape, in seconds of Unix time, as the others."""
    fired: float
    passed: float
    end: float
    """Time after the scrapes of the finished run."""
    code: int
    actor_code: int
    output: str
    trained: list[int]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with ComposeServices(tmp_path_factory.mktemp("compose")) as services:
        start, broker = time.time(), services.start("redis")
        services.wait_for_broker(broker)
        init = services.start("init")
        assert init.wait() == 0, init.output
        watching = services.start("prometheus")
        services.start("exporter")
        services.prometheus.wait()
        train = services.start("train", *CHANGES)
        train.until(lambda: NOBODY in services.prometheus.firing())
        fired, actor = time.time(), services.start("actor")
        train.until(lambda: NOBODY not in services.prometheus.firing())
        passed, code = time.time(), train.wait(2 * BOOT_S)
        actor_code = actor.wait()
        wait_until(
            lambda: services.prometheus.ask(STOPPED, "pair", passed, time.time()), lambda: watching.output, poll_s=1.0
        )
        output = train.output + actor.output
        yield Story(
            services.prometheus, start, fired, passed, time.time(), code, actor_code, output, batches(services.run)
        )


def test_the_pair_trains_with_the_rights_of_its_roles(story: Story) -> None:
    assert (story.code, story.actor_code) == (0, 0), story.output
    assert story.trained == list(range(1, 21))


def test_an_alert_fires_while_nobody_serves_and_passes_when_somebody_does(story: Story) -> None:
    """By the rules as they are, whose least time is two minutes."""
    (fired,) = story.prometheus.ask(FIRES, "pair", story.start, story.end)
    assert fired.times[0] <= story.fired + STEP_S
    assert story.fired - STEP_S <= fired.times[-1] <= story.passed


def test_every_query_of_the_board_has_an_answer(story: Story) -> None:
    assert story.prometheus.unanswered("pair", story.start, story.end) == set()


def test_the_board_is_drawn(story: Story) -> None:
    """From the last minute in which nobody serves."""
    draw(story.prometheus, "pair", story.passed - 60, story.end, PICTURE)
    assert PICTURE.stat().st_size < 100_000
