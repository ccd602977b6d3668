"""One engine, one reward process and a few published versions of a tiny model for all tests of actors."""

import asyncio
import json
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from acting import CONTROL, DATA, SAMPLING, HeldGroupMaker, Play, Run, Start
from tiny_model import Version, publish, write_model
from waits import DEADLINE_S
from wire_records import make_spec

from isentrope.actors.groups import Tools
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.config import DataConfig, ModelConfig, SamplingConfig
from isentrope.rollout.data.prompts import open_prompts

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine
    from isentrope.actors.scoring import Scorer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer of the tiny model, without weights."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Three versions of one learner."""
    folder = tmp_path_factory.mktemp("output")
    return [publish(folder, batch) for batch in range(3)]


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop that the session's engine lives in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def engine(runner: asyncio.Runner, model_dir: Path) -> "Iterator[Engine]":
    """One engine for all tests of the session; load what you need, and leave it able to serve."""
    from isentrope.actors.engine import Engine, EngineOptions

    options = EngineOptions(str(model_dir), "float32", max_model_len=512, kv_cache_gib=0.5)
    engine = runner.run(Engine.start(options))
    yield engine
    runner.run(engine.close())


REWARD = '''
def length(completions, fault, **columns):
    """As many points as words, and the row's own failure."""
    if fault[0] == "raise":
        raise ValueError("as the row wants it")
    return [float(len(text.split())) for text in completions]
'''

PROMPT = "7 > 2 : +3 *4 -1 ="
FILES = {
    "train": [("", PROMPT), ("", "1 > 5 : -2 *3 +7 ="), ("", "0 > 9 : *2 +1 -6 ="), ("", "4 > 4 : +9 -9 *8 =")],
    "faulty": [("raise" if number == 5 else "", PROMPT) for number in range(8)],
    "broken": [("raise", PROMPT)],
    "mixed": [("", PROMPT if number else " ".join(["7"] * 600)) for number in range(4)],
    "long": [("", " ".join(["7"] * 600))],
}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data files and a reward function."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "rewards.py").write_text(REWARD)
    for name, rows in FILES.items():
        lines = [json.dumps({"prompt": prompt, "fault": fault}) for fault, prompt in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def scorer(runner: asyncio.Runner, run_folder: Path) -> "Iterator[Scorer]":
    """Runs the reward function of `run_folder`."""
    from isentrope.actors.scoring import Scorer

    scorer = Scorer(DataConfig(train="train.jsonl", reward="rewards:length"), str(run_folder))
    yield runner.run(scorer.__aenter__())
    runner.run(scorer.__aexit__())


@pytest.fixture
def start(
    redis_server: str,
    run_name: str,
    run_folder: Path,
    model_dir: Path,
    engine: "Engine",
    scorer: "Scorer",
    versions: list[Version],
    runner: asyncio.Runner,
) -> Iterator[Start]:
    """Opens a run with the session's engine and rewards; settings by keyword."""
    brokers: list[Broker] = []

    def run(
        *, url: str = redis_server, sampling: dict[str, Any] | None = None, data: dict[str, Any] | None = None
    ) -> Run:
        from transformers import AutoTokenizer

        data_config = DataConfig(**{**DATA, **(data or {})})
        spec = make_spec(
            run_name,
            model=ModelConfig(path=str(model_dir), dtype="float32"),
            model_dir=str(model_dir),
            data=data_config,
            sampling=SamplingConfig(**{**SAMPLING, **(sampling or {})}),
            run_folder=str(run_folder),
            output_dir=str(Path(versions[0].manifest.folder).parents[1]),
            heartbeat_s=0.5,
        )
        brokers.extend(Broker.connect(url, run_name) for _ in range(2))
        maker = HeldGroupMaker(
            spec,
            engine=engine,
            scorer=scorer,
            prompts=open_prompts(data_config, run_folder=run_folder, seed=spec.seed),
            tokenizer=AutoTokenizer.from_pretrained(model_dir),
        )
        runner.run(engine.load(versions[0].manifest))  # an engine goes forward only, and this one has had other runs
        learner = LearnerPort.fence(brokers[-2], 1, 0, 0, spec, CONTROL)
        return Run(spec, learner, brokers[-1], Tools(engine, maker), maker)

    yield run
    for broker in brokers:
        broker.close()


@pytest.fixture
def play(runner: asyncio.Runner) -> Play:
    """Runs a scenario in the engine's event loop."""

    async def limited(scenario: Awaitable[None]) -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await scenario

    return lambda scenario: runner.run(limited(scenario))
