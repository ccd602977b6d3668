"""One request to vLLM: its settings, and among which tokens each of its answer was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from vllm import SamplingParams
from vllm.logprobs import FlatLogprobs
from vllm.sampling_params import RequestOutputKind

from isentrope.rollout.wire.types import Int32, SamplingMask
from isentrope.rollout.wire.validation import TIES


@dataclass(frozen=True, slots=True)
class Kept:
    """The part of the vocabulary that tokens are sampled from; a `top_k` below 1: all of it, but for `top_p`."""

    top_k: int
    top_p: float
    vocabulary: int

    @property
    def told(self) -> int:
        """Likeliest tokens that vLLM is to tell of beside the sampled one."""
        return min(self.top_k + TIES, self.vocabulary) if self.top_k > 0 else 0

    @property
    def told_all(self) -> bool:
        """True if they are all that there are."""
        return self.told == self.vocabulary


def sampling(seed: int, max_tokens: int, temperature: float, stop: Sequence[str], kept: Kept) -> SamplingParams:
    """Return the settings of one request."""
    return SamplingParams(
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=kept.top_p,
        top_k=max(kept.top_k, 0),
        logprobs=kept.told,
        flat_logprobs=True,
        stop=list(stop),
        detokenize=bool(stop),  # vLLM looks for the texts in what it has decoded
        skip_special_tokens=False,  # the text of a special token, such as <|im_end|>, may be one of them
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def sampling_mask(told: FlatLogprobs, kept: Kept) -> SamplingMask | None:
    """Return the tokens that sampling has kept: those that vLLM tells of with a probability above 0; None: all.

    Raises:
        OverflowError: there may be more of them than it tells of.
    """
    if not kept.told:
        return None
    ids, possible = np.asarray(told.token_ids, np.int32), np.isfinite(np.asarray(told.logprobs, np.float64))
    sets: list[Int32] = []
    for first, end in zip(told.start_indices, told.end_indices, strict=True):  # the first is the sampled token
        if possible[first + 1 : end].all() and not kept.told_all:
            raise OverflowError(f"more than {TIES} tokens are as likely as the last that sampling keeps")
        sets.append(np.unique(ids[first:end][possible[first:end]]))
    return SamplingMask(np.concatenate(sets), np.cumsum([0, *map(len, sets)]).astype(np.int32))
