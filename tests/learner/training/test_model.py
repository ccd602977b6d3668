"""The policy's logits are the network's own, at exactly the positions that predict a response."""

from pathlib import Path

import pytest
import torch
from architectures import CONFIGS, make_network
from torch import Tensor
from toy_batch import make_toy_rows, prompt_of, tokens_of
from transformers import AutoConfig, AutoModelForCausalLM, GraniteConfig, PreTrainedModel

from isentrope.errors import ConfigError
from isentrope.learner.intake.packing import pack
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.training.model import Policy, load_policy

CPU = torch.device("cpu")
RAGGED = make_toy_rows(groups=3, group_size=4)


def load(folder: Path, *, gradient_checkpointing: bool = False) -> Policy:
    return load_policy(str(folder), dtype=torch.float32, device=CPU, gradient_checkpointing=gradient_checkpointing)


def logits_of(policy: Policy, rows: tuple[int, ...]) -> Tensor:
    """[K, V]"""
    return policy(pack(RAGGED, rows), lambda logits, targets: logits)


def row_by_row(network: PreTrainedModel, ragged: RaggedBatch, row: int) -> Tensor:
    """Logits of one response, by the network as it is, alone and unpadded."""
    prompt, tokens = prompt_of(ragged, row), tokens_of(ragged, row)
    ids = torch.tensor([*prompt, *tokens])[None].long()
    return network(input_ids=ids).logits[0, len(prompt) - 1 : -1]


@torch.no_grad()
def test_logits_are_those_of_each_response_alone(toy_model: Path) -> None:
    policy, rows = load(toy_model), (0, 3, 7, 11)
    alone = torch.cat([row_by_row(policy.network, RAGGED, row) for row in rows])
    torch.testing.assert_close(logits_of(policy, rows), alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_targets_are_the_tokens_that_were_sampled(toy_model: Path) -> None:
    targets = load(toy_model)(pack(RAGGED, (2, 5)), lambda logits, targets: targets)
    sampled = [tokens_of(RAGGED, row) for row in (2, 5)]
    assert targets.tolist() == [*sampled[0], *sampled[1]]


def test_an_empty_micro_batch_reaches_every_parameter_with_zero(toy_model: Path) -> None:
    """Else a rank without work would skip collectives that the others wait in."""
    policy = load(toy_model)
    logits_of(policy, ()).sum().backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_checkpointed_activations_change_no_gradient(toy_model: Path) -> None:
    gradients = []
    for checkpointed in (False, True):
        policy = load(toy_model, gradient_checkpointing=checkpointed)
        logits_of(policy, (0, 1, 2)).square().sum().backward()
        gradients.append([parameter.grad for parameter in policy.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_two_passes_of_every_architecture_agree_with_and_without_checkpointing(
    architecture: str, tmp_path: Path
) -> None:
    make_network(architecture).save_pretrained(tmp_path)
    policy, checkpointed = load(tmp_path), load(tmp_path, gradient_checkpointing=True)
    first = logits_of(policy, (0, 3, 7))
    assert torch.equal(first, logits_of(policy, (0, 3, 7)))
    assert torch.equal(first, logits_of(checkpointed, (0, 3, 7)))


def test_there_is_no_dropout(tmp_path: Path, toy_model: Path) -> None:
    config = AutoConfig.from_pretrained(toy_model, attention_dropout=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy = load(tmp_path, gradient_checkpointing=True)
    assert torch.equal(logits_of(policy, (0, 1)), logits_of(policy, (0, 1)))


def test_an_architecture_that_scales_its_logits_is_refused(toy_model: Path) -> None:
    load(toy_model).check_head(CPU)
    config = GraniteConfig(
        vocab_size=46,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        logits_scaling=4,
    )
    with pytest.raises(ConfigError, match="changes its logits after the output layer"):
        Policy(AutoModelForCausalLM.from_config(config)).check_head(CPU)


def test_a_folder_without_model_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model cannot be loaded"):
        load(tmp_path)
