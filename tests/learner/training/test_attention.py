"""Packed rows: each is what it is alone, with any implementation that a device has."""

from typing import Any

import pytest
import torch
from architectures import make_network
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, Qwen3NextConfig

from isentrope.learner.intake.packing import pack_rows
from isentrope.learner.training import attention as attentions
from isentrope.learner.training.attention import PADDED, VARLEN, attention, varlen_attention
from isentrope.learner.training.model import Policy

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS = [[*range(start, start + length)] for start, length in ((2, 45), (9, 3), (40, 20), (7, 33), (100, 2))]
"""Longer and shorter than the windows of `architectures`."""


def policy_of(architecture: str, implementation: str) -> Policy:
    torch.manual_seed(3)
    network = make_network(architecture).eval()
    network.set_attn_implementation(implementation)
    return Policy(network)


def learned(policy: Policy, rows: list[list[int]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return log-probabilities of all tokens, and the gradient of a function of them."""
    logp = policy(pack_rows(rows), lambda logits, targets: logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])
    (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
    named = {name: each.grad for name, each in policy.named_parameters() if each.grad is not None}
    return logp.detach(), named


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3_moe", "gemma3", "gpt2", "deepseek_v3"])
def test_packed_rows_teach_what_padded_ones_do(architecture: str) -> None:
    """Untied and tied heads, biases, experts, windows in every second layer, values narrower than keys."""
    (logp, gradients), (padded, others) = (
        learned(policy_of(architecture, implementation), ROWS) for implementation in (VARLEN, PADDED)
    )
    torch.testing.assert_close(logp, padded, atol=2e-6, rtol=0)
    largest = max(float(each.abs().max()) for each in others.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-6 * largest, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_row_among_others_is_what_it_is_alone(architecture: str) -> None:
    policy = policy_of(architecture, VARLEN)
    alone = torch.cat([learned(policy, [row])[0] for row in ROWS])
    torch.testing.assert_close(learned(policy, ROWS)[0], alone, atol=4e-6, rtol=0)


def test_a_gpu_gets_one_call_with_the_starts_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def called(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        calls.append((query.shape, key.shape, value.shape, rest, options))
        return query

    monkeypatch.setattr(varlen, "varlen_attn", called)
    with FakeTensorMode():
        query, key, value = (
            torch.empty(1, h, 10, d, device=GPU, dtype=torch.bfloat16) for h, d in ((4, 16), (2, 16), (2, 8))
        )
        starts = torch.empty(3, dtype=torch.int32, device=GPU)
        given = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 6, "max_length_k": 6}
        out, _ = varlen_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, sliding_window=4, **given)
        varlen_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, **given)
    assert out.shape == (1, 10, 4, 8)
    shapes = ((10, 4, 16), (10, 2, 16), (10, 2, 16))
    wanted = {"scale": 0.3, "enable_gqa": True}
    assert calls == [
        (*shapes, (starts, starts, 6, 6), wanted | {"window_size": (3, 0)}),
        (*shapes, (starts, starts, 6, 6), wanted | {"window_size": (-1, 0)}),
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_are_packed_on_a_gpu_whatever_is_installed(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert attention(LlamaForCausalLM, GPU, dtype) == VARLEN
    assert VARLEN in caplog.text


def test_flash_attention_is_chosen_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(attentions.FLASH, "flash_attention_2", lambda: True)
    caplog.set_level("INFO")
    assert attention(LlamaForCausalLM, GPU, torch.bfloat16) == "flash_attention_2"
    assert "flash_attention_2" in caplog.text
    assert attention(LlamaForCausalLM, GPU, torch.float32) == VARLEN
    monkeypatch.setitem(attentions.FLASH, "flash_attention_3", lambda: True)
    assert attention(LlamaForCausalLM, GPU, torch.bfloat16) == "flash_attention_3"


def test_rows_are_padded_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert attention(LlamaForCausalLM, CPU, torch.bfloat16) == PADDED
    assert not caplog.text


def test_a_model_with_attention_of_its_own_is_padded_and_the_log_names_it(caplog: pytest.LogCaptureFixture) -> None:
    class Own(PreTrainedModel):
        _supports_flash_attn = False

    assert attention(Own, GPU, torch.bfloat16) == PADDED
    assert "Own has its own attention" in caplog.text


def state_that_crosses_rows() -> Policy:
    """Return a model whose first layer carries a state from token to token."""
    config = Qwen3NextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        num_experts=0,
        mlp_only_layers=[0, 1],
    )
    network: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    network.set_attn_implementation(VARLEN)
    return Policy(network)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (lambda: policy_of("gemma2", VARLEN), "softcap"),
        (state_that_crosses_rows, "rows of Qwen3NextForCausalLM are not independent"),
    ],
)
def test_rows_that_cannot_be_packed_are_padded_and_the_log_says_why(
    policy: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    made: Policy = policy()
    made.settle_attention(CPU)
    assert not made.runs_packed
    assert reason in caplog.text
    rows = [row for row in ROWS if max(row) < 64]
    alone = torch.cat([learned(made, [row])[0] for row in rows])
    torch.testing.assert_close(learned(made, rows)[0], alone, atol=4e-6, rtol=0)


def test_rows_that_can_be_packed_stay_so(caplog: pytest.LogCaptureFixture) -> None:
    policy = policy_of("llama", VARLEN)
    policy.settle_attention(CPU)
    assert policy.runs_packed and not caplog.text
