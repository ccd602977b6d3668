"""Measure by how much the engine's and the learner's log-probabilities of a bfloat16 model differ, with logits in
bfloat16 and in float32.

    python docs/results/measure_logits.py       # two minutes on two cores

Writes `logits.json` beside this file. Both sides have the same weights, so every difference is rounding. The model is
random, with logits as wide as a trained model's; how a trained one differs was not measured.
"""

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

from isentrope import environment

environment.set_defaults(offline=True)

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.inputs import TokensPrompt  # noqa: E402

from isentrope.learner.intake.packing import pack_row  # noqa: E402
from isentrope.learner.training.model import Policy  # noqa: E402
from isentrope.learner.training.output_layer import widen  # noqa: E402
from isentrope.rollout.wire.files import write_whole  # noqa: E402

DATA = Path(__file__).with_name("logits.json")
VOCABULARY, WIDTH, PROMPT, RESPONSE, RESPONSES = 32000, 256, 8, 48, 64
WIDEST_LOGIT = 24.0


def main() -> None:
    """Sample once with either kind of logits, score both by the learner, and write what differs."""
    with tempfile.TemporaryDirectory() as name:
        network = make_model(Path(name))
        results = {kind: compare(network, Path(name), kind) for kind in ("bfloat16", "float32")}
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "tokens": RESPONSE * RESPONSES,
        "logits": results,
    }
    write_whole(DATA, json.dumps(report, indent=1) + "\n", durable=False)


def make_model(folder: Path) -> PreTrainedModel:
    """Write a random model whose logits reach `WIDEST_LOGIT`, and return it."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    network: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        logits = network(input_ids=torch.arange(64)[None]).logits
        head = network.get_output_embeddings()
        assert head is not None
        head.weight.mul_(WIDEST_LOGIT / float(logits.abs().max()))
    network.bfloat16().save_pretrained(folder)
    return network


def compare(network: PreTrainedModel, folder: Path, kind: str) -> dict[str, float]:
    """Return the differences of both sides with logits of a kind, in nats."""
    head = {"bfloat16": "model", "float32": "float32"}[kind]
    engine = LLM(
        str(folder),
        dtype="bfloat16",
        skip_tokenizer_init=True,
        logprobs_mode="processed_logprobs",
        enforce_eager=True,
        kv_cache_memory_bytes=2**28,
        hf_overrides={"head_dtype": head},
    )
    prompts = [[7 + 3 * row + place for place in range(PROMPT)] for row in range(RESPONSES)]
    wanted = SamplingParams(max_tokens=RESPONSE, min_tokens=RESPONSE, logprobs=0, seed=5, detokenize=False)
    sampled = engine.generate([TokensPrompt(prompt_token_ids=prompt) for prompt in prompts], wanted)
    if kind == "float32":
        widen(network)
    policy = Policy(network)
    gaps = torch.cat([gap(policy, prompt, each.outputs[0]) for prompt, each in zip(prompts, sampled, strict=True)])
    return {
        "mean": float(gaps.abs().mean()),
        "99th percentile": float(gaps.abs().quantile(0.99)),
        "largest": float(gaps.abs().max()),
    }


@torch.no_grad()
def gap(policy: Policy, prompt: Sequence[int], output: object) -> torch.Tensor:
    """Return log-probabilities of a response by the learner less those by the engine [T], nats."""
    tokens: list[int] = list(output.token_ids)  # type: ignore[attr-defined]
    sampled = [each[token].logprob for each, token in zip(output.logprobs, tokens, strict=True)]  # type: ignore[attr-defined]
    packed = pack_row([*prompt, *tokens])
    logp: torch.Tensor = policy(
        packed, lambda logits, targets: logits.float().log_softmax(-1).gather(-1, targets[:, None])
    )
    return logp[-len(tokens) :, 0] - torch.tensor(sampled)


if __name__ == "__main__":
    main()
