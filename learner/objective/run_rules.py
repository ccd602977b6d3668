"""Rules about an objective in a run of a certain size and age: what is fine for one run breaks another."""

import math
from collections.abc import Iterator

from isentrope.learner.objective.findings import Finding, Findings
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.run_facts import RunFacts
from isentrope.learner.objective.schema import Stage
from isentrope.learner.objective.stages import clip, tokens

SHARES = (tokens.top_cov, tokens.band_cov, tokens.top_covariance, tokens.low_entropy_covariance)
"""Selections of a share of a batch's tokens, one at least."""
NO_LAG = "set learner.staleness.max_lag = 0, or a clip, or a correction"


def unbounded_age(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse tokens of older policies where neither a clip nor a correction bounds what they do."""
    if _is_old(objective, facts) and objective.clip.runs(clip.none, clip.score_function):
        yield Finding("clip", f"nothing bounds what tokens do that are up to {facts.max_lag} batches old", NO_LAG)


def truncated_sampling(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse sampling among the likeliest tokens where log-probabilities are those of the whole vocabulary."""
    if facts.truncates and objective.sampling_mask == "none":
        yield Finding(
            "ratio.sampling_mask",
            "truncated sampling (sampling.top_k) would train on log-probabilities of another distribution",
            'set ratio.sampling_mask = "engine" in [learner.objective], or leave sampling.top_k and sampling.top_p out',
        )


def wide_clip(objective: Objective, facts: RunFacts) -> Findings:
    """Yield a doubt about a clip that bounds tokens of one sign only, where they are of older policies."""
    wide = objective.clip.runs(clip.ppo) and objective.clip.params["low"] >= 1
    if wide and _is_old(objective, facts):
        reason = f"low = 1 bounds no negative advantage, and tokens are up to {facts.max_lag} batches old"
        yield Finding("clip.low", reason, NO_LAG)


def too_few_selected(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a share of the tokens that is less than one, were every response as long as it may be."""
    for key, stage in _shares(objective):
        most = _selected(stage, facts)
        if most < 1:
            yield Finding(
                key,
                f"{stage.params['share']:g} of the {facts.tokens} tokens that a batch has at most is less than one",
                f"set share = {_rounded_up(stage.params['share'] * facts.updates / most)} or more, for one per update",
            )


def few_selected(objective: Objective, facts: RunFacts) -> Findings:
    """Yield a doubt about a share of the tokens that leaves most updates of a batch without one."""
    for key, stage in _shares(objective):
        most = _selected(stage, facts)
        if 1 <= most < facts.updates:
            yield Finding(
                key,
                f"{stage.params['share']:g} of the {facts.tokens} tokens that a batch has at most is {most:.2g} for "
                f"{facts.updates} updates: most of them have none to act on",
                f"set share = {_rounded_up(stage.params['share'] * facts.updates / most)} or more, for one per update",
            )


def _is_old(objective: Objective, facts: RunFacts) -> bool:
    """Return True if tokens of older policies are trained on without a correction for it."""
    return facts.max_lag > 0 and not facts.on_policy and not objective.correction


def _shares(objective: Objective) -> Iterator[tuple[str, Stage]]:
    """Yield the selections of a share of the whole batch, with the places of their shares."""
    if objective.stats == "microbatch":
        return
    yield from ((f"tokens.{stage.kind.name}.share", stage) for stage in objective.tokens if stage.runs(*SHARES))
    for place, term in enumerate(objective.kl):
        if term.tokens is not None and term.tokens.runs(*SHARES):
            yield f"kl.{place}.tokens.share", term.tokens


def _selected(stage: Stage, facts: RunFacts) -> float:
    """Return the number of tokens that a share is of a batch's, at most; infinite where these are not known."""
    if facts.tokens is None:
        return math.inf
    of_set = float(stage.params["low"]) if stage.runs(tokens.low_entropy_covariance) else 1.0
    return float(stage.params["share"]) * of_set * facts.tokens


def _rounded_up(value: float) -> str:
    """Return the next larger number of two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.2g}"
