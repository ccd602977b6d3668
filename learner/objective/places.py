"""Places of an objective: the stages by their keys below `learner.objective`, and the keys that controllers set."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from isentrope.learner.objective.schema import Stage

SINGLE = {
    "baseline": "advantage.baseline",
    "scale": "advantage.scale",
    "anchor": "ratio.anchor",
    "level": "ratio.level",
    "clip": "clip",
    "entropy": "entropy",
    "reduce": "reduce",
    "reset": "reset",
    "critic": "critic",
}
"""Fields of an objective that hold one stage, with its place."""

SEVERAL = ("filter", "reward", "modulation", "tokens", "responses", "correction", "aux", "control")
"""Fields that hold several stages; the place of one is the field's name and its kind."""

LEARNING_RATE = "learning_rate"
"""Target of a controller that sets a factor on `learner.learning_rate`."""

Values = Mapping[str, Mapping[str, float]]
"""Values that controllers set: by the place of a stage, by key."""


def split_target(of: str) -> tuple[str, str]:
    """Return the place of the stage that a controller's target `of` is a key of, and that key.

    `clip.high` is a key of `clip`. A whole stage, such as `aux.high_prob_push`, stands for its main key: the weight
    that is called `value` in `tokens`, and `coef` elsewhere.
    """
    place, _, key = of.rpartition(".")
    if place == "kl" or place in SEVERAL or of == "entropy":
        return of, "value" if place == "tokens" else "coef"
    return place, key


def set_values(control: Iterable[Stage], state: Mapping[str, Mapping[str, float]]) -> Values:
    """Return the values that controllers set in a state, `initial` where it has none."""
    values: dict[str, dict[str, float]] = {}
    for stage in control:
        place, key = split_target(str(stage.params["of"]))
        value = state.get(stage.kind.name, {}).get("value", float(stage.params["initial"]))
        values.setdefault(place, {})[key] = value
    return values


def with_values(stage: Stage, place: str, values: Values) -> Stage:
    """Return the stage at `place` with the values that controllers have set."""
    return replace(stage, params={**stage.params, **values[place]}) if place in values else stage
