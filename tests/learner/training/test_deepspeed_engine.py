"""DeepSpeed does exactly what plain PyTorch would, at every ZeRO stage: one launch of two ranks for all of them."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import make_network
from toy_run import launch, make_model
from transformers import LlamaConfig, LlamaForCausalLM

from isentrope.learner.training.deepspeed_files import ShardFiles

pytestmark = pytest.mark.slow
STAGES = ["0", "1", "2", "3"]


CALLED = "called"
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "clang++", "ninja", "nvcc", "hipcc", "x86_64-linux-gnu-gcc")


def false_compilers(folder: Path) -> Path:
    """Return a folder of programs that have the names of compilers, and write down that they were called."""
    folder.mkdir()
    for name in COMPILERS:
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "$0 $*" >> {folder / CALLED}\nexit 1\n')
        program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks saw, by stage."""
    folder = tmp_path_factory.mktemp("stages")
    results = folder / "results.json"
    make_network("qwen3_moe").save_pretrained(folder / "experts")
    arguments = [str(make_model(folder / "model")), str(folder), str(results), *STAGES]
    environment = {
        "PATH": os.pathsep.join((str(false_compilers(folder / "compilers")), os.environ["PATH"])),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "CC": "",
        "CXX": "",
    }
    ranks = launch("rank_stages.py", arguments, folder / "log.txt", ranks=2, **environment)
    assert ranks.wait() == 0, ranks.text()
    assert not (folder / "compilers" / CALLED).exists(), (folder / "compilers" / CALLED).read_text()
    assert not (folder / "extensions").exists(), "nothing is compiled, so no lock of a build is waited for"
    found: dict[str, Any] = json.loads(results.read_text())
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_is_that_of_one_plain_process(facts: dict[str, Any], stage: str) -> None:
    assert facts[stage]["error"] < 1e-5
    assert facts[stage]["names"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_reported_norm_is_that_before_clipping(facts: dict[str, Any], stage: str) -> None:
    wanted, got = facts[stage]["norm"]
    assert got == pytest.approx(wanted, rel=1e-5)
    assert wanted > 0.5, "clipping is active"


@pytest.mark.parametrize("stage", STAGES)
def test_an_update_that_is_not_finite_on_one_rank_is_applied_on_none_and_changes_no_bit_of_a_checkpoint(
    facts: dict[str, Any], stage: str
) -> None:
    assert facts[stage]["spoilt"] == [{"applied": False, "unchanged": True, "differs": ""}] * 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_goes_on_bit_by_bit(facts: dict[str, Any], stage: str) -> None:
    assert facts[stage]["saved"] == ["", ""]
    assert facts[stage]["bitwise"] == [True, True]
    assert facts[stage]["random"] == [True, True]
    assert facts[stage]["updates"] == 6
    assert facts[stage]["moved"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_optimizer_forgets_its_moments_on_every_rank(facts: dict[str, Any], stage: str) -> None:
    assert all(each["count"] > 0 and each["sum"] == 0 for each in facts[stage]["moments"])
    assert facts[stage]["steps_on"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_refused_write_is_told_and_holds_nobody_up(facts: dict[str, Any], stage: str) -> None:
    assert any(facts[stage]["refused"])


@pytest.mark.parametrize("what", [*STAGES, "experts"])
def test_what_is_published_is_what_is_saved_whoever_has_it_in_memory(facts: dict[str, Any], what: str) -> None:
    """Also while training goes on; under ZeRO-3 from pieces, and with experts that files hold one by one."""
    assert facts[what]["gathered"] == [True, True]
    assert facts[what]["written"] == [[True, True, 2]] * 2, "table, files, and a file of each rank"


def test_a_rank_trains_the_same_with_its_share_as_with_the_whole_batch(facts: dict[str, Any]) -> None:
    assert facts["rows"] == [True, True]


def test_stages_reach_nearly_the_same_weights(facts: dict[str, Any]) -> None:
    digests = [facts[stage]["digest"] for stage in STAGES]
    assert max(digests) == pytest.approx(min(digests), rel=1e-5)


class Planted:
    """Runs a command when it is unpickled by something trusting."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('planted code ran')",))


def test_a_planted_shard_is_refused_before_anything_runs(tmp_path: Path) -> None:
    torch.save({"optimizer_state_dict": Planted()}, tmp_path / "shard.pt")
    with pytest.raises(pickle.UnpicklingError):
        ShardFiles().load(str(tmp_path / "shard.pt"))


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """By number of ranks: what they took together while they loaded a model at stage 3, in times its size."""
    folder = tmp_path_factory.mktemp("memory")
    config = LlamaConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=24, vocab_size=8192,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    small, size = make_model(folder / "small"), (folder / "model" / "model.safetensors").stat().st_size
    found = {}
    for count in (2, 4):
        results = folder / f"{count}.json"
        arguments = [str(folder / "model"), str(small), str(results)]
        ranks = launch("rank_memory.py", arguments, folder / "log.txt", ranks=count)
        assert ranks.wait() == 0, ranks.text()
        seen = json.loads(results.read_text())
        assert all(each["whole"] for each in seen)
        found[count] = {kind: sum(each[kind] for each in seen) / size for kind in ("Pss_Anon", "Pss_Shmem", "copied")}
    return found


def test_a_model_in_the_format_of_its_files_is_mapped_and_not_copied(taken: dict[int, dict[str, float]]) -> None:
    """By all ranks of a machine together, whatever ZeRO's stage; until it is divided, or goes to their devices."""
    assert max(each["copied"] for each in taken.values()) < 0.5


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_of_a_machine_load_a_model_as_one_does(taken: dict[int, dict[str, float]], ranks: int) -> None:
    """Beside its files, mapped once, they have their shares of it; each has one parameter in hand."""
    assert taken[ranks]["Pss_Anon"] + taken[ranks]["Pss_Shmem"] < 1.8
