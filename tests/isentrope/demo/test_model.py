"""The demo's model: whole folder, same weights every time, made once."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from isentrope.demo import model as demo_model
from isentrope.demo.model import WEIGHTS, WarmUp
from isentrope.errors import StorageError
from isentrope.rollout.data.tasks.digit_walk import VOCABULARY, DigitWalk


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of this test's own, and a warm-up of three steps."""
    monkeypatch.setattr(demo_model, "WarmUp", lambda: WarmUp(steps=3, rows=8))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_skeleton_loads_with_the_vocabulary_of_the_task(tmp_path: Path) -> None:
    demo_model.write_skeleton(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = DigitWalk(0).eval(0).prompt
    ids = tokenizer(prompt)["input_ids"]
    assert [VOCABULARY[number] for number in ids] == ["<bos>", *str(prompt).split()]
    assert tokenizer.decode(ids[1:]) == prompt
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(tmp_path))
    assert sum(weight.numel() for weight in model.parameters()) == 300_000


def test_engines_can_start_before_the_weights_are_there(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def look(done: int, total: int) -> None:
        seen.append({path.name for path in (quick / "run").iterdir()})

    demo_model.make_model(quick / "run", progress=look)
    assert {"config.json", "tokenizer.json"} <= seen[0]
    assert all(WEIGHTS not in names for names in seen)
    AutoModelForCausalLM.from_pretrained(quick / "run")


def test_weights_are_made_once_and_copied_afterwards(quick: Path) -> None:
    steps: list[int] = []
    for name in ("first", "second"):
        demo_model.make_model(quick / name, progress=lambda done, total: steps.append(done))
    assert steps == [1, 2, 3]
    assert (quick / "first" / WEIGHTS).read_bytes() == (quick / "second" / WEIGHTS).read_bytes()


def test_a_failed_warm_up_leaves_nothing_behind(quick: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_model.make_model(quick / "run", progress=stop)
    assert list((quick / "cache" / "isentrope" / "models").iterdir()) == []
    demo_model.make_model(quick / "run")
    assert (quick / "run" / WEIGHTS).exists()


def test_a_cache_that_cannot_be_written_is_named(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (quick / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(quick / "file"))
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        demo_model.make_model(quick / "run")


def test_warm_up_gives_the_same_weights_whatever_the_threads_and_the_random_state(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(number)
            monkeypatch.setenv("XDG_CACHE_HOME", str(quick / str(number)))
            demo_model.make_model(quick / f"run-{number}")
            made.append((quick / f"run-{number}" / WEIGHTS).read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert made[0] == made[1]


def test_fingerprint_tells_seeds_apart() -> None:
    assert demo_model.fingerprint(0) == demo_model.fingerprint(0) != demo_model.fingerprint(1)
