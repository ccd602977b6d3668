"""The needs of an objective besides sampled responses, derived from the tensors that its stages read."""

from collections.abc import Iterator
from enum import StrEnum

from isentrope.learner.objective.objective import KlTerm, Objective
from isentrope.learner.objective.places import SEVERAL, SINGLE
from isentrope.learner.objective.schema import Stage
from isentrope.learner.objective.stages import advantage


class Need(StrEnum):
    """Input that a run must supply; the value is its name in messages."""

    REFERENCE = "a reference model"
    TEACHER = "a teacher"
    ANSWERS = "final-answer keys from the reward function"
    CORRECTNESS = "a rule of what is correct"
    REWARDS = "two reward functions or more"
    CRITIC = "a critic"
    DEMONSTRATIONS = "demonstrations"
    STEP_LABELS = "step labels"
    GREEDY = "a greedy response to every prompt"
    SAMPLING_MASK = "sampling-mask replay"
    ROUTING = "routing replay"


PROVIDED = frozenset(
    {
        Need.REFERENCE,
        Need.TEACHER,
        Need.ANSWERS,
        Need.CORRECTNESS,
        Need.REWARDS,
        Need.CRITIC,
        Need.DEMONSTRATIONS,
        Need.GREEDY,
        Need.STEP_LABELS,
        Need.SAMPLING_MASK,
    }
)
"""Needs that the training loop supplies, some only where data and model have them; a change that builds another one
adds it here."""

_BY_TENSOR = {
    "logp_ref": Need.REFERENCE,
    "answer": Need.ANSWERS,
    "correct": Need.CORRECTNESS,
    "parts": Need.REWARDS,
    "values": Need.CRITIC,
    "demonstration": Need.DEMONSTRATIONS,
    "step_correct": Need.STEP_LABELS,
    "greedy_reward": Need.GREEDY,
}


_ABSENT = {
    Need.DEMONSTRATIONS: (
        "and data.demonstration names no column that has them",
        "name the column of expert responses in data.demonstration, or choose a method without it",
    ),
    Need.TEACHER: (
        "and the reference is the model itself, from which nothing can be learned",
        "name the teacher in model.reference, a model with the same tokenizer",
    ),
    Need.CORRECTNESS: (
        'and data.correct = "nothing" says that rewards are graded',
        'say in data.correct what is correct ("reward > 1.5"), or choose a method without it',
    ),
    Need.SAMPLING_MASK: (
        "and sampling.top_k is not set: every token is chosen from the whole vocabulary",
        "set sampling.top_k, or leave ratio.sampling_mask out",
    ),
    Need.REWARDS: (
        "and data.reward has one: what is left of the method is group mean and standard deviation",
        "name the others in data.reward, or choose a method without it",
    ),
}
"""Needs that a run may lack, with why and the remedy."""


def absent(need: Need) -> tuple[str, str]:
    """Return why a run cannot supply a need, and the remedy."""
    return _ABSENT.get(need, ("which this version cannot supply yet", "choose a method without it"))


def stages_of(objective: Objective) -> Iterator[tuple[str, Stage]]:
    """Yield every stage with its place below `learner.objective`, the token sets of KL terms included."""
    yield from ((place, getattr(objective, name)) for name, place in SINGLE.items())
    for name in SEVERAL:
        yield from ((f"{name}.{stage.kind.name}", stage) for stage in getattr(objective, name))
    for place, term in enumerate(objective.kl):
        yield f"kl.{place}", term.estimator
        if term.tokens is not None:
            yield f"kl.{place}.tokens", term.tokens


def needs(objective: Objective) -> dict[Need, str]:
    """Return the objective's needs in any run, with the first place that has each."""
    found: dict[Need, str] = {}
    for path, stage in stages_of(objective):
        for name in stage.needed:
            if name in _BY_TENSOR:
                found.setdefault(_BY_TENSOR[name], path)
    for place, term in enumerate(objective.kl):
        if term.keys.anchor == "ref" and acts(objective, term):
            found.setdefault(Need.REFERENCE, f"kl.{place}")
    if objective.baseline.runs(advantage.teacher):
        found[Need.TEACHER] = "advantage.baseline"
    if objective.routing != "none":
        found[Need.ROUTING] = "ratio.routing"
    if objective.sampling_mask != "none":
        found[Need.SAMPLING_MASK] = "ratio.sampling_mask"
    return found


def acts(objective: Objective, term: KlTerm) -> bool:
    """Return True if a KL term is more than 0: by its coefficient, or because a controller sets it."""
    return term.keys.coef > 0 or any(stage.params["of"] == f"kl.{term.keys.anchor}" for stage in objective.control)
