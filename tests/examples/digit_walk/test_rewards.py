"""The reward of digit walks is that of the built-in task."""

import runpy

from hypothesis import given
from hypothesis import strategies as st

from isentrope.init import EXAMPLES
from isentrope.rollout.data.tasks.digit_walk import DigitWalk, step, verify

REWARDS = runpy.run_path(str(EXAMPLES / "digit_walk" / "rewards.py"))
PROBLEMS = [DigitWalk(0).train_problem(seq) for seq in range(50)]


@given(st.data())
def test_it_is_the_tasks_own(data: st.DataObject) -> None:
    """But for the number of steps, which it does not bound: at most six here, mostly true ones."""
    problem = data.draw(st.sampled_from(PROBLEMS))
    digit, words = problem.start, list[str]()
    for operation in data.draw(st.lists(st.sampled_from([*problem.operations, "+0"]), min_size=1, max_size=6)):
        digit = step(digit, operation)
        words += [operation, data.draw(st.sampled_from([str(digit)] * 9 + ["x"]))]
    text = " ".join(words[: data.draw(st.sampled_from([None, -1]))])
    (reward,) = REWARDS["reaches"]([text], [problem.start], [problem.target], [list(problem.operations)])
    assert reward == float(verify(text, problem.start, problem.target, problem.operations))
