"""Comparison of records with the orders of their run: prompts, seeds, and the versions that were published.

A record that obeys all rules of `wire/validation.py` is consistent in itself; here it is compared with the order that
it answers, of which everything is a pure function. What an actor has sampled is not known, and cannot be checked.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from isentrope.errors import DataError
from isentrope.rollout.wire.seeds import eval_seed, sampling_seed
from isentrope.rollout.wire.types import EvalResult, Group, Int32, Response, incarnation_of
from isentrope.rollout.wire.validation import refuse

LEAST_LOGP = -745.0
"""Log-probability, in nats, of the smallest positive number: nothing that was sampled has a lower one."""


class Asked(NamedTuple):
    """The prompt of an order: its tokens, the data set that it is from, and the tokens of the demonstration that its
    group has; None: it has none."""

    ids: Int32
    source: str
    demonstration: Int32 | None = None


class HeldOut(Protocol):
    """Prompts of evaluation orders, by their index in the set `name`."""

    def __call__(self, index: int, name: str) -> Asked: ...


class RunCheck:
    """The comparison of records with the orders of one run."""

    def __init__(
        self, seed: int, train: Callable[[int], Asked], held_out: HeldOut, *, greedy: bool = False, masked: bool = False
    ) -> None:
        """Compare with the prompts `train` of work orders and `held_out` of evaluation orders, and with the seeds that
        follow from the run's. Either raises DataError for a row that is not a prompt for the model. greedy: every group
        must have the reward of a greedy response. masked: every token of the policy must have those it was chosen from,
        else none may."""
        self._greedy = greedy
        self._masked = masked
        self._seed = seed
        self._train = train
        self._held_out = held_out

    def group(self, group: Group, incarnation: int, announced: Collection[int]) -> None:
        """Check a group, of a run whose learner `incarnation` has announced these versions of its own.

        Raises:
            RecordError: it does not answer its order.
        """
        if group.attempt:
            refuse("run", f"attempt {group.attempt} was never ordered")
        if self._greedy and group.greedy_reward is None:
            refuse("run", "no reward of a greedy response")
        for place, response in enumerate(group.responses):
            if self._masked and not _is_masked(response):
                refuse("run", f"response {place}: it is not known among which tokens each was chosen")
            if not self._masked and response.sampling_mask is not None:
                refuse("run", f"response {place}: a sampling mask, and tokens are chosen from the whole vocabulary")
        self._check(group, self._train, lambda place: sampling_seed(self._seed, group.seq, group.attempt, place))
        for version in {int(each) for response in group.responses for each in response.span_version}:
            if incarnation_of(version) == incarnation and version not in announced:
                refuse("run", f"version {version} was never published")

    def answer(self, result: EvalResult) -> None:
        """Check an evaluation result; RecordError as above."""
        index, name = result.group.seq, result.name
        asked = partial(self._held_out, name=name)
        self._check(result.group, asked, lambda place: eval_seed(self._seed, name, index, place))

    def _check(self, group: Group, prompt: Callable[[int], Asked], seed: Callable[[int], int]) -> None:
        try:
            asked = prompt(group.seq)
        except DataError as error:
            refuse("run", f"there is no such prompt: {error.what}")
        if not np.array_equal(group.prompt, asked.ids):
            refuse("run", f"prompt: {len(group.prompt)} tokens that are not those of its order")
        if group.source != asked.source:
            refuse("run", f"source: {group.source[:32]!r}, not {asked.source!r}")
        wanted = [] if asked.demonstration is None else [asked.demonstration.tolist()]
        if [each.tokens.tolist() for each in group.demonstrations] != wanted:
            refuse("run", f"{len(group.demonstrations)} demonstrations that are not that of its prompt")
        lost = {missing.index for missing in group.missing}
        places = [place for place in range(len(group.responses) + len(lost)) if place not in lost]
        for place, response in zip(places, group.responses, strict=True):
            where = f"response {place}"
            if response.seed != seed(place):
                refuse("run", f"{where}: its seed is not that of its order")
            if not response.mask.any():
                refuse("run", f"{where}: no token is the policy's")
            if response.logp_rollout.min() < LEAST_LOGP:
                refuse(
                    "run", f"{where}: a log-probability of {response.logp_rollout.min():g}, which nothing sampled has"
                )


def _is_masked(response: Response) -> bool:
    """Return True if it is known of every token of the policy among which it was chosen."""
    kept = response.sampling_mask
    return kept is not None and bool(np.all(np.diff(kept.start)[response.mask] > 0))
