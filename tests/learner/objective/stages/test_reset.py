"""The rule that resets the reference."""

from isentrope.learner.objective.stages import reset


def test_resets_after_patience_evaluations_without_gain_and_waits_its_cooldown() -> None:
    state: dict[str, float] = {}
    seen = []
    for batch, score in enumerate([0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3]):
        state = reset.on_stagnation(state, score, batch, patience=2, min_gain=0.0, cooldown=3)
        seen.append(bool(state["reset"]))
    # best at 1; two without gain at 3; the next pair is at 5 but within the cooldown, over at 6, where it gains
    assert seen == [False, False, False, True, False, False, False, False, True]


def test_never() -> None:
    assert reset.never({}, 0.0, 7) == {}
