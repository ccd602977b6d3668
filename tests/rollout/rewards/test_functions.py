"""What a reward function may return, what is done with it, and that a failure is never a reward of 0."""

import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import ConfigError, RewardError
from isentrope.rollout.config import MAX_REWARD, DataConfig
from isentrope.rollout.data.rows import Row
from isentrope.rollout.rewards.functions import Outcome, RewardSet, Score, columns_for, load_rewards, probe

CHAT = [{"role": "user", "content": "2+2?"}]
Make = Callable[..., RewardSet]


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Loads the functions of a source text, in a module of this test's own."""
    module = "".join(c if c.isidentifier() else "_" for c in request.node.name) + "_rewards"
    made: list[RewardSet] = []

    def load(source: str, names: Sequence[str] = ("f",), weights: Sequence[float] = ()) -> RewardSet:
        name = f"{module}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        data = DataConfig(
            train="train.jsonl", reward=[f"{name}:{function}" for function in names], reward_weights=list(weights)
        )
        made.append(load_rewards(data, run_folder=tmp_path))
        return made[-1]

    yield load
    for rewards in made:
        rewards.close()


def outcomes_of(rewards: RewardSet, completions: Sequence[str], **columns: list[object]) -> list[Outcome]:
    return rewards(["p"] * len(completions), completions, columns)


def score(rewards: RewardSet, completions: Sequence[str] = ("a", "bb"), **columns: list[object]) -> list[Score]:
    return [one for one in outcomes_of(rewards, completions, **columns) if isinstance(one, Score)]


def rewards_of(outcomes: Sequence[Outcome]) -> list[float]:
    assert all(isinstance(one, Score) for one in outcomes)
    return [one.reward for one in outcomes if isinstance(one, Score)]


def refusal(rewards: RewardSet, **columns: list[object]) -> RewardError:
    """The error of a call for two completions, or of the one that has no score."""
    try:
        (error,) = [one for one in outcomes_of(rewards, ["a", "bb"], **columns) if isinstance(one, RewardError)]
    except RewardError as whole:
        error = whole
    assert len(str(error)) < 700
    return error


def test_a_function_of_trl_works_unchanged(make: Make) -> None:
    rewards = make("""
        def f(prompts, completions, ground_truth, **kwargs):
            assert prompts == ["p", "p"] and kwargs == {"completion_ids": [[1], [2, 3]], "level": ["x", "x"]}
            return [1.0 if c == g else 0.0 for c, g in zip(completions, ground_truth)]
    """)
    columns = columns_for({"ground_truth": "bb", "level": "x"}, [[1], [2, 3]])
    assert rewards_of(rewards(["p", "p"], ["a", "bb"], columns)) == [0.0, 1.0]


def test_without_kwargs_a_function_gets_what_it_names(make: Make) -> None:
    rewards = make("def f(completions, completion_ids, bonus=0): return [len(i) + bonus for i in completion_ids]")
    assert rewards_of(score(rewards, completion_ids=[[1], [2, 3]], other=[1, 2])) == [1.0, 2.0]


def test_a_chat_prompt_gets_the_response_as_a_message(make: Make) -> None:
    rewards = make("""
        def f(prompts, completions):
            assert prompts[0][-1]["content"] == "2+2?"
            return [float(len(c[0]["content"])) for c in completions if c[0]["role"] == "assistant"]
    """)
    assert rewards_of(rewards([CHAT, CHAT], ["4", "four"], {})) == [1.0, 4.0]


def test_functions_are_weighted_and_recorded_by_name(make: Make) -> None:
    rewards = make(
        """
        def right(completions): return [1, 0]
        def short(completions): return [0.5, -2.0]
        """,
        names=["right", "short"],
        weights=[2.0, 0.5],
    )
    scores = score(rewards)
    assert rewards_of(scores) == [2.25, -1.0]
    assert [sorted(one.parts.values()) for one in scores] == [[0.5, 1.0], [-2.0, 0.0]]
    assert all(name.endswith((":right", ":short")) for name in scores[0].parts)


def test_none_leaves_a_function_out_and_only_for_its_completion(make: Make) -> None:
    rewards = make(
        """
        def maths(completions): return [1.0, None]
        def code(completions): return [None, -1.0]
        """,
        names=["maths", "code"],
        weights=[1.0, 3.0],
    )
    scores = score(rewards)
    assert rewards_of(scores) == [1.0, -3.0]
    assert [len(one.parts) for one in scores] == [1, 1]


def test_none_from_all_functions_is_a_failure_of_its_completion(make: Make) -> None:
    rewards = make("def f(completions): return [1.0, None]\ndef g(completions): return [1.0, None]", names=["f", "g"])
    error = refusal(rewards)
    assert "completion 1" in error.what and ":f" in error.what and ":g" in error.what
    assert rewards_of(score(rewards)) == [2.0]


def test_only_a_completion_without_a_reward_fails_unless_all_do(make: Make) -> None:
    rewards = make("def f(completions, value): return value")
    outcomes = outcomes_of(rewards, ["a", "b", "c"], value=[1.0, float("nan"), None])
    assert [isinstance(one, RewardError) for one in outcomes] == [False, True, True]
    with pytest.raises(RewardError, match=r"nan .* completion 0"):
        rewards(["p", "p"], ["a", "bb"], {"value": [float("nan"), None]})


def test_a_map_gives_components_and_an_answer(make: Make) -> None:
    rewards = make("""
        def f(completions): return [{"reward": 1, "answer": "42", "format": 0.5}, {"reward": 0}]
        def g(completions): return [1.0, 1.0]
    """, names=["g", "f"])  # fmt: skip
    first, second = score(rewards)
    assert (first.reward, first.answer, second.answer) == (2.0, "42", "")
    assert {name.rpartition(":")[2]: value for name, value in first.parts.items()} == {"f": 1, "f.format": 0.5, "g": 1}


def test_long_answers_become_digests_that_still_tell_them_apart(make: Make) -> None:
    rewards = make("def f(completions): return [{'reward': 1, 'answer': c} for c in completions]")
    long = "x" * 100_000
    keys = [one.answer for one in score(rewards, [long + "a", long + "b", long + "a", "\ud83d" * 200])]
    assert keys[0] == keys[2] != keys[1]
    assert max(map(len, keys)) < 100 and keys[3].isascii()


@pytest.mark.parametrize(
    "value",
    [0.25, 1, Fraction(1, 4), True, np.float32(0.25), np.int64(1), np.bool_(False), np.array(0.25), torch.tensor(True)],
    ids=repr,
)
def test_numbers_of_any_kind_are_rewards(make: Make, value: object) -> None:
    rewards = make("def f(completions, value): return value")
    assert rewards_of(score(rewards, value=[value, value])) == [value, value]


@pytest.mark.parametrize(
    ("returned", "rewards"),
    [
        ("numpy.ones(2, numpy.float16)", [1.0, 1.0]),
        ("numpy.array([True, False])", [1.0, 0.0]),
        ("torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True)", [0.5, 1.0]),
        ("torch.tensor([True, False])", [1.0, 0.0]),
        ("(torch.tensor(0.5), numpy.bool_(True))", [0.5, 1.0]),
    ],
)
def test_an_array_or_a_tensor_is_a_list_of_rewards(make: Make, returned: str, rewards: list[float]) -> None:
    """As TRL's `torch.tensor(returned, dtype=torch.float32)` takes them."""
    assert rewards_of(score(make(f"import numpy, torch\ndef f(completions): return {returned}"))) == rewards


def test_a_tensor_is_read_without_loading_its_library() -> None:
    source = "import isentrope.rollout.rewards.functions, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True)


def test_a_boolean_may_be_a_component(make: Make) -> None:
    (one, _) = score(make("def f(completions): return [{'reward': True, 'form': False}, 1.0]"))
    assert (one.reward, sorted(one.parts.values())) == (1.0, [0.0, 1.0])


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ("None", "returned None (NoneType)"),
        ("1.0", "returned 1.0 (float)"),
        ("'ab'", "returned 'ab' (str)"),
        ("{'reward': [1.0, 2.0]}", "(dict)"),
        ("(x for x in [1.0, 1.0])", "(generator)"),
        ("[]", "returned 0 rewards for 2 completions"),
        ("[1.0] * 3", "returned 3 rewards for 2 completions"),
        ("numpy.ones((2, 1))", "returned [1.0] (list) for completion 0"),
        ("numpy.array(1.0)", "returned array(1.) (ndarray)"),
        ("[numpy.ones(1), 1.0]", "returned array([1.]) (ndarray) for completion 0"),
        ("[1.0, '1.0']", "returned '1.0' (str) for completion 1"),
        ("[float('nan'), 1.0]", "returned nan (float) for completion 0"),
        ("[1.0, float('-inf')]", "returned -inf (float) for completion 1"),
        ("[1e308, 1.0]", "returned 1e+308 (float) for completion 0"),
        ("[{'reward': 1.0, 'form': -1e308}, 1.0]", "as 'form' for completion 0"),
        ("[10 ** 400, 1.0]", "(int) for completion 0"),
        ("[1j, 1.0]", "returned 1j (complex) for completion 0"),
        ("[[1.0], 1.0]", "returned [1.0] (list) for completion 0"),
        ("[{}, 1.0]", "returned {} (dict) for completion 0"),
        ("[{'reward': None}, 1.0]", "returned None (NoneType) as 'reward' for completion 0"),
        ("[{'reward': 1.0, 'form': 'no'}, 1.0]", "returned 'no' (str) as 'form' for completion 0"),
        ("[{'reward': 1.0, 'answer': 42}, 1.0]", "returned the answer 42 (int) for completion 0"),
        ("['x' * 100000, 1.0]", "for completion 0"),
    ],
)
def test_what_is_not_a_reward_is_refused_with_function_index_and_value(make: Make, returned: str, what: str) -> None:
    error = refusal(make(f"import numpy\ndef f(completions): return {returned}"))
    assert what in error.what
    assert ":f' returned" in error.what
    assert error.fix


ENTRIES = st.none() | st.booleans() | st.text(max_size=3) | st.floats() | st.integers() | st.decimals()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> RewardSet:
    """A reward function that returns its column `value`."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo_rewards.py").write_text("def f(completions, value): return value")
    return load_rewards(DataConfig(train="train.jsonl", reward="echo_rewards:f"), run_folder=folder)


def is_reward(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_REWARD


@given(returned=st.lists(ENTRIES, max_size=4))
def test_any_list_gives_the_same_finite_scores_or_a_reward_error(echo: RewardSet, returned: list[object]) -> None:
    if len(returned) == 2 and all(map(is_reward, returned)):
        assert rewards_of(score(echo, value=returned)) == returned
    elif len(returned) == 2 and any(map(is_reward, returned)):
        assert rewards_of(score(echo, value=returned)) == list(filter(is_reward, returned))
        refusal(echo, value=returned)
    else:
        with pytest.raises(RewardError):
            outcomes_of(echo, ["a", "bb"], value=returned)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise ValueError('bad completion')", "raised ValueError: bad completion"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3"),
        ("return [[0.0][1]]", "raised IndexError"),
        ("raise TimeoutError('slow')", "raised TimeoutError: slow"),
        ("import asyncio; raise asyncio.CancelledError", "raised CancelledError"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("raise GeneratorExit", "raised GeneratorExit"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_is_an_error_with_its_place(make: Make, kind: str, body: str, what: str) -> None:
    error = refusal(make(f"{kind} f(completions):\n    {body}"))
    assert what in error.what and ":f'" in error.what
    assert error.where.endswith("_0.py:2, in f")


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("asked[0].cancel()", "raised CancelledError"),
        ("[each.cancel() for each in asyncio.all_tasks()]", "raised CancelledError"),
        ("asked.append(asyncio.create_task(end()))", "raised SystemExit: 3"),
    ],
)
def test_what_ends_a_task_of_a_reward_is_its_failure_and_of_no_later_call(make: Make, task: str, what: str) -> None:
    body = """
        import asyncio, sys
        async def end():
            await asyncio.sleep(0)
            sys.exit(3)
        async def ask(text):
            await asyncio.sleep(0)
            return float(len(text))
        async def f(completions, fails):
            asked = [asyncio.create_task(ask(text)) for text in completions]
            if fails[0]:
                TASK
            return [await each for each in asked]
    """
    rewards = make(body.replace("TASK", task))
    for fails in (True, False, True):
        if fails:
            assert what in refusal(rewards, fails=[True, True]).what
        else:
            assert rewards_of(score(rewards, fails=[False, False])) == [1.0, 2.0]


def test_an_error_survives_the_way_between_processes(make: Make) -> None:
    error = refusal(make("def f(completions): raise ValueError('bad')"))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.what, copy.where, copy.exit_code) == (RewardError, error.what, error.where, 65)


def test_async_functions_run_together_and_beside_sync_ones(make: Make) -> None:
    rewards = make(
        """
        import asyncio
        barrier = asyncio.Barrier(2)
        async def f(completions):
            await barrier.wait()
            return [1.0, 1.0]
        async def g(completions):
            await barrier.wait()
            return [2.0, 2.0]
        def h(completions):
            return [4.0, asyncio.run(asyncio.sleep(0, 4.0))]
        """,
        names=["f", "h", "g"],
    )
    assert rewards_of(score(rewards)) == [7.0, 7.0]


def test_async_functions_see_one_event_loop_in_all_calls(make: Make) -> None:
    rewards = make("""
        import asyncio
        loops = set()
        async def f(completions):
            loops.add(asyncio.get_running_loop())
            return [float(len(loops))] * 2
    """)
    assert [rewards_of(score(rewards)) for _ in range(3)] == [[1.0, 1.0]] * 3


def test_a_failure_of_one_async_function_names_that_one(make: Make) -> None:
    rewards = make(
        """
        async def f(completions): return [1.0, 1.0]
        async def g(completions): raise KeyError("answer")
        """,
        names=["f", "g"],
    )
    assert ":g' raised KeyError: 'answer'" in refusal(rewards).what


def test_a_function_cannot_spoil_the_arguments_of_the_next(make: Make) -> None:
    rewards = make(
        """
        def f(completions, answer): completions.clear(); answer.clear(); return [0.0, 0.0]
        def g(completions, answer): return [float(len(completions)), float(len(answer))]
        """,
        names=["f", "g"],
    )
    assert rewards_of(score(rewards, answer=[1, 2])) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("signature", "what", "fix"),
    [
        ("completions, answer", "needs 'answer'", 'set data.columns.answer = "label"'),
        ("completions, lable", "needs 'lable'", 'set data.columns.lable = "label"'),
        ("completion, **rest", "needs 'completion'", "the argument is called completions"),
        ("completions, completions_ids", "needs 'completions_ids'", "the argument is called completion_ids"),
        ("completions, trainer_state", "needs 'trainer_state'", "give trainer_state a default"),
    ],
)
def test_an_argument_that_is_no_column_is_named_with_what_to_set(
    make: Make, signature: str, what: str, fix: str
) -> None:
    rewards = make(f"def f({signature}): return [1.0, 1.0]")
    with pytest.raises(RewardError) as caught:
        probe(rewards, Row("p", {"question": "q", "label": 1}, "train", "f:1"))
    assert what in caught.value.what
    assert caught.value.fix.startswith(fix)
    assert caught.value.where == "columns of the data: label, question"


def test_a_positional_only_argument_is_refused(make: Make) -> None:
    with pytest.raises(RewardError, match="positional-only"):
        make("def f(completions, /): return [1.0, 1.0]")


def test_the_probe_finds_what_raises_and_passes_what_works(make: Make) -> None:
    row = Row(CHAT, {"answer": "4"}, "train", "f:1")
    probe(
        make("def f(completions, answer): return [float(c[0]['content'] == a) for c, a in zip(completions, answer)]"),
        row,
    )
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        probe(make("def f(completions, answer): return [1 / 0]"), row)


def test_the_probe_says_what_it_called_the_functions_with(make: Make) -> None:
    for body in ("[len(text) / 0 for text in completions]", "[1.0]", "[None, None]"):
        with pytest.raises(RewardError) as caught:
            probe(make(f"def f(completions): return {body}"), Row("p", {}, "train", "f:1"))
        assert caught.value.where.endswith('called with the made-up responses "" and "0" to f:1')


def test_the_columns_that_functions_name(make: Make) -> None:
    rewards = make("def f(prompts, completions, completion_ids, answer, level=1, **rest): return [1.0, 1.0]")
    assert rewards.columns == {"answer", "level"}


@pytest.mark.parametrize(
    ("reward", "weights", "what"),
    [
        ("", [], "no reward function is named"),
        ([], [], "no reward function is named"),
        (["exact_match", ""], [], "are not all different words"),
        (["exact_match", "exact_match"], [], "are not all different words"),
        ("exact_macth", [], "write 'exact_match'"),
        ("maths", [], "write 'math'"),
        ("nonsense", [], "there are: exact_match, math"),
        ("my module:f", [], "not of the form"),
        ("module:", [], "not of the form"),
        (":f", [], "not of the form"),
        ("a:b:c", [], "not of the form"),
        ("task:digitwalk", [], "task:digit_walk"),
        ("exact_match", [1.0, 2.0], "2 weights for 1 reward functions"),
    ],
)
def test_a_name_that_cannot_be_one_is_a_mistake_of_the_configuration(
    tmp_path: Path, reward: Any, weights: list[float], what: str
) -> None:
    data = DataConfig(train="train.jsonl", reward=reward, reward_weights=weights)
    with pytest.raises(ConfigError) as caught:
        load_rewards(data, run_folder=tmp_path)
    assert what in str(caught.value)


def test_a_task_brings_its_own_verifier_and_others_may_be_added(tmp_path: Path) -> None:
    (tmp_path / "bonus_for_tasks.py").write_text("def f(completions, start): return [0.5 for _ in start]")
    own = load_rewards(DataConfig(train="task:digit_walk"), run_folder=tmp_path)
    both = DataConfig(train="task:digit_walk", reward=["task:digit_walk", "bonus_for_tasks:f"])
    columns: dict[str, list[object]] = {"start": [7] * 2, "target": [2] * 2, "operations": [["+3", "*4", "-1"]] * 2}
    texts = ["+3 0 -1 9 +3 2", "+3 1"]
    assert rewards_of(score(own, texts, **columns)) == [1.0, 0.0]
    assert rewards_of(score(load_rewards(both, run_folder=tmp_path), texts, **columns)) == [1.5, 0.5]
