"""Reward functions: find them, call them, and refuse what is not a reward. Deadlines and processes are the actors'.

The signature is TRL's: `f(prompts, completions, **columns) -> list[float | None]`, sync or async, one entry for each
completion. Besides `prompts` and `completions` a function gets `completion_ids` and the columns of the data, each a
list of the same length, and of these only what it names unless it takes `**kwargs`. A number may be a boolean, or a
scalar, array or tensor of another library; so may the whole list. None means "not applicable". An entry may be a map
`{"reward": 1.0, "answer": "42", "format": 0.5}`: `reward` counts, `answer` is a key under which equal answers are the
same, `steps` are judged steps of reasoning, `[[start, end, correct], ...]` in characters, every other name is a
component that is recorded.

A failure is a `RewardError`, never a reward of 0: of the whole call if a function raises or returns no such list, of
one completion if its entry is not a reward.
"""

import asyncio
import contextlib
import hashlib
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Union

from isentrope.errors import ConfigError, RewardError, nearest
from isentrope.rollout.config import MAX_REWARD, TASK, DataConfig
from isentrope.rollout.data.rows import RESERVED, Messages, Row, set_column
from isentrope.rollout.data.tasks import open_task
from isentrope.rollout.rewards import builtin
from isentrope.rollout.rewards.correctness import reward_names
from isentrope.rollout.rewards.foreign import plain, short, short_text
from isentrope.rollout.rewards.loading import last_line, load_function
from isentrope.rollout.rewards.steps import Step, read_steps

Outcome = Union["Score", RewardError]
"""Result of the reward functions for one response: a score, or why it has none."""

RewardFunction = Callable[..., object]
Prompt = str | Messages

MAX_ANSWER_BYTES = 256
"""Maximum length of an answer key; a longer one is replaced by its digest, which still tells equal answers apart."""

MAX_COMPONENTS = 256
"""Named values of one response that are recorded; the codec takes no more."""

MADE_UP = ("", "0")
"""Responses that `probe` calls the functions with."""

_TRL_ONLY = ("trainer_state", "log_extra", "log_metric", "environments")
"""Arguments that only TRL passes: they belong to a trainer that runs in the same process."""


@dataclass(frozen=True, slots=True)
class Score:
    """Result of the reward functions for one response.

    reward: weighted sum over the functions that apply. parts: each function's own value under its name, and its
    components as `name.component`; what `data.correct` looks at.
    answer: key of the final answer, "" if no function gives one. steps: of the first function that gives some; None:
    none does.
    """

    reward: float
    parts: Mapping[str, float]
    answer: str
    steps: tuple[Step, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Value:
    """A checked entry of a function's return value."""

    reward: float
    answer: str
    components: Mapping[str, float]
    steps: tuple[Step, ...] | None = None


class _Function:
    """One reward function with its name in the configuration and its weight."""

    def __init__(self, name: str, call: RewardFunction, weight: float) -> None:
        self.name = name
        self.weight = weight
        self._call = call
        self._parameters = inspect.signature(call).parameters.values()
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in self._parameters)
        self.named = {p.name for p in self._parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self._needed = {p.name for p in self._parameters if p.name in self.named and p.default is p.empty}
        for parameter in self._parameters:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise RewardError(
                    f"reward {name!r} has the positional-only argument {parameter.name!r}",
                    where="data.reward",
                    fix="arguments are passed by name: def f(prompts, completions, **columns)",
                )

    def __call__(self, arguments: Mapping[str, Sequence[object]]) -> object:
        """Return the function's return value; an awaitable if it is async."""
        self.require(arguments)
        return self._call(**{k: list(v) for k, v in arguments.items() if self._takes_all or k in self.named})

    def require(self, arguments: Mapping[str, Sequence[object]]) -> None:
        """Raise RewardError if the function needs an argument that is not there."""
        for name in sorted(self._needed - arguments.keys() - {"prompts", "completions"}):
            raise self._unknown_argument(
                name, {column: values[0] for column, values in sorted(arguments.items()) if column not in RESERVED}
            )

    def _unknown_argument(self, name: str, columns: Mapping[str, object]) -> RewardError:
        fix = set_column(f"data.columns.{name}", name, columns)
        if name in _TRL_ONLY:
            fix = f"give {name} a default: TRL's trainer passes it, and rewards run outside a trainer here"
        elif close := nearest(name, RESERVED):
            fix = f"the argument is called {close}"
        return RewardError(
            f"reward {self.name!r} needs {name!r}, and there is no such column",
            where=f"columns of the data: {', '.join(columns) or 'none'}",
            fix=fix,
        )

    def values(self, returned: object, count: int) -> list[_Value | RewardError | None]:
        """Check `returned`: one entry for each of `count` completions; an error stands for one that is not a reward."""
        try:
            entries = plain(returned)
        except BaseException as error:
            raise self.raised(error) from error
        if not isinstance(entries, (list, tuple)):
            raise self._refused(f"returned {short(returned)}", "return a list with one reward for each completion")
        if len(entries) != count:
            raise self._refused(
                f"returned {len(entries)} rewards for {count} completions", "return one reward for each completion"
            )
        return [self._checked(entry, i) for i, entry in enumerate(entries)]

    def _checked(self, entry: object, index: int) -> _Value | RewardError | None:
        try:
            return self._value(entry, index)
        except BaseException as error:  # an object of the user's own: looking at it runs the user's code
            return self.raised(error)

    def _value(self, entry: object, index: int) -> _Value | None:
        if entry is None:
            return None
        if not isinstance(entry, Mapping):
            return _Value(self._number(entry, "", index), "", {})
        if "reward" not in entry:
            raise self._refused(f"returned {short(entry)} for completion {index}", "a map needs the key 'reward'")
        answer = entry.get("answer", "")
        if not isinstance(answer, str):
            raise self._refused(
                f"returned the answer {short(answer)} for completion {index}", "return the answer as text"
            )
        steps = self._steps(entry["steps"], index) if "steps" in entry else None
        numbers = {str(k): self._number(v, str(k), index) for k, v in entry.items() if k not in ("answer", "steps")}
        return _Value(numbers.pop("reward"), answer, numbers, steps)

    def _steps(self, value: object, index: int) -> tuple[Step, ...]:
        try:
            return read_steps(value)
        except ValueError as error:
            raise self._refused(f"returned other steps for completion {index}", str(error)) from error

    def _number(self, value: object, key: str, index: int) -> float:
        fix = (
            f"return a number from {-MAX_REWARD:g} to {MAX_REWARD:g}, True or False, or None where the function does "
            "not apply"
        )
        what = f"returned {short(value)}{f' as {key!r}' if key else ''} for completion {index}"
        own = plain(value)
        if not isinstance(own, Real):
            raise self._refused(what, fix)
        try:
            number = float(own)
        except OverflowError:
            number = math.inf
        if not abs(number) <= MAX_REWARD:
            raise self._refused(what, fix)
        return number

    def _refused(self, what: str, fix: str) -> RewardError:
        return RewardError(f"reward {self.name!r} {what}", fix=fix)

    def raised(self, error: BaseException) -> RewardError:
        """Return the error for an exception in the function."""
        if isinstance(error, RewardError):
            return error
        failure = RewardError(
            f"reward {self.name!r} raised {type(error).__name__}: {short_text(str(error))}",
            where=last_line(error),
            fix="let it need less memory, or raise data.reward_memory_gib" if isinstance(error, MemoryError) else "",
        )
        failure.__cause__ = error
        return failure


class RewardSet:
    """All reward functions of a run as one function; made by `load_rewards`. Call it from one thread.

    Async functions run together, always in the same event loop, so that a client they keep stays usable.
    """

    def __init__(self, functions: Sequence[_Function]) -> None:
        self._functions = functions
        self._runner = asyncio.Runner()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Mapping[str, Sequence[object]]
    ) -> list[Outcome]:
        """Return one outcome for each completion.

        Args:
            prompts: the prompt of each completion.
            completions: the responses' texts; a function gets one as the assistant's message if its prompt is a chat.
            columns: a list for each further argument: the columns of the data, and `completion_ids`.

        Raises:
            RewardError: a function raised, or did not return a list of rewards, or no completion has one; names
                function, index and value.
        """
        seen = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        returned = self._call({"prompts": prompts, "completions": seen, **columns})
        values = [f.values(r, len(completions)) for f, r in zip(self._functions, returned, strict=True)]
        outcomes = [self._outcome([value[i] for value in values], i) for i in range(len(completions))]
        if outcomes and all(isinstance(outcome, RewardError) for outcome in outcomes):
            raise _first_error(outcomes)
        return outcomes

    @property
    def columns(self) -> set[str]:
        """Columns of the data that a function names."""
        return set().union(*(function.named for function in self._functions)) - set(RESERVED)

    def require(self, arguments: Mapping[str, Sequence[object]]) -> None:
        """Raise RewardError if a function needs a column that is not there."""
        for function in self._functions:
            function.require(arguments)

    def close(self) -> None:
        """Close the event loop of async functions."""
        self._runner.close()

    def _call(self, arguments: Mapping[str, Sequence[object]]) -> list[object]:
        returned: list[object] = []
        for function in self._functions:
            try:
                returned.append(function(arguments))
            except BaseException as error:  # the user's code: whatever it raises is its failure, and of no one else
                raise function.raised(error) from error
        waiting = {i: value for i, value in enumerate(returned) if inspect.isawaitable(value)}
        if waiting:
            finished = self._run(waiting)
            for i, value in zip(waiting, finished, strict=True):
                if isinstance(value, BaseException):
                    raise self._functions[i].raised(value) from value
                returned[i] = value
        return returned

    def _run(self, waiting: Mapping[int, Awaitable[object]]) -> list[object]:
        """Wait for async functions, given by place; return what they return or raise."""
        try:
            return self._runner.run(_finished(list(waiting.values())))
        except BaseException as error:  # of a task that a function has started: asyncio lets some through its loop
            with contextlib.suppress(BaseException):
                self._runner.close()
            self._runner = asyncio.Runner()
            raise self._functions[min(waiting)].raised(error) from error

    def _outcome(self, values: Sequence[_Value | RewardError | None], index: int) -> Outcome:
        try:
            return self._score(values, index)
        except RewardError as error:
            return error

    def _score(self, values: Sequence[_Value | RewardError | None], index: int) -> Score:
        reward, answer, parts = 0.0, "", {}
        steps: tuple[Step, ...] | None = None
        for function, value in zip(self._functions, values, strict=True):
            if isinstance(value, RewardError):
                raise value
            if value is not None:
                reward += function.weight * value.reward
                answer = answer or value.answer
                steps = value.steps if steps is None else steps
                parts[function.name] = value.reward
                parts |= {f"{function.name}.{name}": number for name, number in value.components.items()}
        if not parts:
            names = ", ".join(function.name for function in self._functions)
            raise RewardError(
                f"no reward function applies to completion {index}: {names} returned None",
                fix="at least one function must give a number for every completion",
            )
        if not abs(reward) <= MAX_REWARD:
            raise RewardError(
                f"the weighted sum of the rewards of completion {index} is {reward}",
                fix=f"scale the functions or data.reward_weights: it must be from {-MAX_REWARD:g} to {MAX_REWARD:g}",
            )
        if len(parts) > MAX_COMPONENTS:
            raise RewardError(f"{len(parts)} components of a reward; at most {MAX_COMPONENTS} are recorded")
        return Score(reward, parts, _answer_key(answer), steps)


def load_rewards(data: DataConfig, *, run_folder: Path) -> RewardSet:
    """Return the reward functions that `data` names.

    Raises:
        ConfigError: a name is invalid, or the number of weights differs from the number of functions.
        RewardError: a function cannot be imported or called.
    """
    names = reward_names(data)
    if not names or "" in names or len(set(names)) < len(names):
        raise ConfigError(
            "no reward function is named" if set(names) <= {""} else f"the names {names} are not all different words",
            where="data.reward",
            fix=f"name {', '.join(builtin.BUILTINS)}, or my_module:my_function of my_module.py beside the run file",
        )
    weights = data.reward_weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise ConfigError(
            f"{len(weights)} weights for {len(names)} reward functions",
            where="data.reward_weights",
            fix="give one factor for each function of data.reward",
        )
    return RewardSet([_Function(n, _find(n, run_folder), w) for n, w in zip(names, weights, strict=True)])


def probe(rewards: RewardSet, row: Row) -> list[Score]:
    """Call `rewards` once on made-up responses to `row`, so that a function that cannot work fails before the run.

    Returns:
        The score of each response.

    Raises:
        RewardError: says what the functions were called with, if they were.
    """
    columns = columns_for(row.columns, [[], [0]])
    rewards.require(columns)
    try:
        outcomes = rewards([row.prompt] * len(MADE_UP), MADE_UP, columns)
        if any(isinstance(outcome, RewardError) for outcome in outcomes):
            raise _first_error(outcomes)
    except RewardError as error:
        responses = " and ".join(f'"{text}"' for text in MADE_UP)
        called = f"called with the made-up responses {responses} to {row.where}"
        where = f"{error.where}; {called}" if error.where else called
        raise RewardError(error.what, where=where, fix=error.fix) from error
    return [outcome for outcome in outcomes if isinstance(outcome, Score)]


def columns_for(columns: Mapping[str, object], completion_ids: Sequence[Sequence[int]]) -> dict[str, list[object]]:
    """Return a row's columns as a `RewardSet` takes them: repeated for each response, with the responses' tokens."""
    repeated = {name: [value] * len(completion_ids) for name, value in columns.items()}
    return {**repeated, "completion_ids": [list(ids) for ids in completion_ids]}


def _find(name: str, run_folder: Path) -> RewardFunction:
    if name.startswith(TASK):
        return open_task(name.removeprefix(TASK)).verify
    if ":" in name:
        return load_function(name, run_folder)
    if name not in builtin.BUILTINS:
        close = nearest(name, builtin.BUILTINS)
        raise ConfigError(
            f"there is no built-in reward {name!r}; there are: {', '.join(builtin.BUILTINS)}",
            where="data.reward",
            fix=f"write {close!r}" if close else "or write my_module:my_function for my_module.py beside the run file",
        )
    return builtin.load_builtin(name)


def _first_error(outcomes: Sequence[Outcome]) -> RewardError:
    return next(outcome for outcome in outcomes if isinstance(outcome, RewardError))


async def _finished(waiting: Sequence[Awaitable[object]]) -> list[object]:
    return await asyncio.gather(*map(_result, waiting))


async def _result(waiting: Awaitable[object]) -> object:
    """Return the result or the exception: also a cancellation, or one that would end the event loop."""
    try:
        return await waiting
    except BaseException as error:
        return error


def _answer_key(answer: str) -> str:
    encoded = answer.encode(errors="surrogatepass")
    if len(encoded) <= MAX_ANSWER_BYTES:
        return answer
    return f"blake2b:{hashlib.blake2b(encoded, digest_size=16).hexdigest()}"
