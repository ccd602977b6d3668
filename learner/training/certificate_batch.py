"""A small random policy, and a batch that its engine might have sampled: the same numbers on every machine of a kind.

Logits are wide, so that entropies and covariances differ by token; half of the responses are of a policy farther away,
so that bounds on ratios cut some of them; some tokens are old, some of them too old. Two reward functions, a greedy
response to every prompt and judged steps are there for the methods that read them.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from isentrope.learner.intake.packing import pack
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.types import Finish, Group, Response, Steps, version_of

VOCABULARY = 48
LONGEST = 16
GROUPS, GROUP_SIZE = 6, 4
NUMBER = 5
"""Batches trained before this one."""
TOKEN_MAX_LAG = 2
BATCH = "batch.bin"


def write(folder: Path) -> None:
    """Write the model into `folder`, and the batch beside it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.12,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / BATCH).write_bytes(_sampled(folder).to_bytes())


def read(folder: Path, *, shown: bool = False) -> RaggedBatch:
    """Return the batch that `write` has written; shown: the last row of every group is a demonstration."""
    ragged = RaggedBatch.from_bytes((folder / BATCH).read_bytes())
    if not shown:
        return ragged
    demonstration = np.repeat(ragged.index == GROUP_SIZE - 1, ragged.length)
    fresh = None if ragged.fresh is None else ragged.fresh & ~demonstration
    changed = {"mask": ragged.mask | demonstration, "lag": np.where(demonstration, 0, ragged.lag), "fresh": fresh}
    return replace(ragged, demonstration=demonstration, **changed)


@torch.no_grad()
def _sampled(folder: Path) -> RaggedBatch:
    """Return random responses with log-probabilities near those of the model."""
    ragged = _random()
    packed = pack(ragged, range(len(ragged.length)))
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids, cell = packed.rectangle()
    logits = network(input_ids=ids).logits.flatten(0, 1)[cell[packed.source]]
    logp = torch.log_softmax(logits, 1).gather(1, packed.target[:, None])[:, 0].numpy()
    far = np.repeat(np.arange(len(ragged.length)) % 2, ragged.length)
    noise = np.random.default_rng(1).standard_normal(len(logp)) * np.where(far, 0.3, 0.002)
    return replace(ragged, logp_rollout=np.minimum(logp + noise, -1e-4).astype(np.float32))


def _random() -> RaggedBatch:
    """Return groups of two sources: one all right, one all wrong, the others mixed; one response is cut off."""
    rng = np.random.default_rng(0)

    def response(seq: int, index: int) -> Response:
        length = LONGEST if (seq, index) == (2, 1) else int(rng.integers(2, LONGEST + 1))
        right = seq == 0 or (seq > 1 and bool((index + seq) % 3 == 0))
        newer = min(length - 1, int(rng.integers(1, LONGEST)))
        lag = int(rng.integers(0, TOKEN_MAX_LAG + 2))
        return Response(
            tokens=rng.integers(3, VOCABULARY, length).astype(np.int32),
            logp_rollout=np.full(length, -1.0, np.float32),
            mask=np.ones(length, np.bool_),
            span_start=np.array([0, newer], np.int32),
            span_version=np.array([version_of(1, NUMBER - lag), version_of(1, NUMBER)], np.int64),
            finish=Finish.LENGTH if length == LONGEST else Finish.STOP,
            reward=float(right),
            seed=index,
            answer=f"{index % 3}",
            reward_parts={"right": float(right), "short": float(length < LONGEST // 2)},
            steps=Steps(
                np.array([0, length // 2], np.int32),
                np.array([length // 2, length], np.int32),
                np.array([index % 2 == 0, True]),
            ),
        )

    def group(seq: int) -> Group:
        prompt = rng.integers(3, VOCABULARY, int(rng.integers(4, 10))).astype(np.int32)
        responses = tuple(response(seq, index) for index in range(GROUP_SIZE))
        greedy = float(seq % 3 == 0)
        return Group(seq, 0, "a1", prompt, responses, 1.0, source=("even", "odd")[seq % 2], greedy_reward=greedy)

    return make_ragged(
        [group(seq) for seq in range(GROUPS)],
        number=NUMBER,
        token_max_lag=TOKEN_MAX_LAG,
        correctness=Correctness("reward", 0.5),
        newest_version=version_of(1, NUMBER),
        functions={"right": 1.0, "short": 0.5},
    )
