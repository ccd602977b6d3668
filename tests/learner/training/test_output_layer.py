"""Logits of a model of 16 bits are float32: the sums of products, and not these rounded to 16 bits."""

import copy

import pytest
import torch
from architectures import CONFIGS, make_network
from torch import Tensor
from transformers import PreTrainedModel

from isentrope.learner.training.output_layer import Float32Logits, widen

IDS = torch.tensor([[5, 9, 200, 31, 7]])


def narrow(architecture: str) -> PreTrainedModel:
    return make_network(architecture).bfloat16().eval()


def head_of(network: PreTrainedModel) -> torch.nn.Linear:
    head = network.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    return head


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_keeps_its_names_and_values(architecture: str) -> None:
    network = narrow(architecture)
    names = {name: value.clone() for name, value in network.state_dict().items()}
    tied = network.get_input_embeddings().weight is head_of(network).weight
    widen(network)
    assert network.state_dict().keys() == names.keys()
    assert all(torch.equal(value, names[name]) for name, value in network.state_dict().items())
    assert (network.get_input_embeddings().weight is head_of(network).weight) == tied
    assert isinstance(head_of(network), Float32Logits)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi"])
@torch.no_grad()
def test_logits_are_the_sums_and_not_these_rounded(architecture: str) -> None:
    """Untied, tied, and with a bias."""
    network = narrow(architecture)
    hidden = network.base_model(input_ids=IDS).last_hidden_state
    head = head_of(network)
    exact = hidden.double() @ head.weight.double().T + (0 if head.bias is None else head.bias.double())
    rounded = head(hidden)
    widen(network)
    wide: Tensor = network(input_ids=IDS).logits
    assert wide.dtype == torch.float32
    scale = float(exact.abs().max())
    assert float((wide - exact).abs().max()) < 1e-5 * scale
    assert float((rounded - exact).abs().max()) > 1e-3 * scale


def test_the_gradient_is_that_of_the_rounded_layer() -> None:
    network = narrow("qwen2")
    wide = copy.deepcopy(network)
    widen(wide)
    gradients = []
    for each in (network, wide):
        logp = each(input_ids=IDS).logits.float().log_softmax(-1)
        logp[0, :, 3].sum().backward()
        gradients.append(
            {name: value.grad.float() for name, value in each.named_parameters() if value.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(
            gradient, gradients[0][name], rtol=0, atol=0.05 * float(gradients[0][name].abs().max())
        )


def test_a_model_of_float32_is_left_as_it_is() -> None:
    network = make_network("llama")
    head = head_of(network)
    widen(network)
    assert head_of(network) is head
