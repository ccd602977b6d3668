"""Prompts: from the number of a work order to the tokens of its prompt.

A prompt is a pure function of `seq`: the mixture says which file it is from and how many were before it, and the order
of that file which row that is; by default pass `i // n` over n rows shuffles them by `seed + pass`. So any actor can
serve any order, and a restarted run sees the same data.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import ConfigError, DataError
from isentrope.rollout.config import HELD_OUT, TASK, DataConfig
from isentrope.rollout.data.data_file import DataFile, NamedFile, TrainingFile
from isentrope.rollout.data.mixture import Mixture, require_weights
from isentrope.rollout.data.rows import Messages, Row
from isentrope.rollout.data.survey import Example, most_tokens
from isentrope.rollout.data.tasks import Task, open_task
from isentrope.rollout.data.tokenizer import Tokenizer

DEMONSTRATION = "data.demonstration"

CHOOSING = ("data.keep", "data.order", "data.stages", "data.mixture", DEMONSTRATION)
"""Keys that choose and order training rows; their errors say where they are themselves."""

Opened = TypeVar("Opened")

TASK_DEMONSTRATION = "demonstration"
"""Name by which `data.demonstration` asks for those of a task."""

_TASK_ROWS = 256
"""Training rows of a task that `row` knows."""


class PromptTooLongError(DataError):
    """The prompt leaves no room for `max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine and the reward.

    ids: [L]. prompt: as the reward receives it. columns: the row's other columns, for the reward. source: data set.
    steps: verdicts on steps by their normal text; None: the data holds none.
    """

    ids: NDArray[np.int32]
    prompt: str | Messages
    columns: Mapping[str, object]
    source: str
    steps: Mapping[str, bool] | None = None


class Prompts:
    """Training rows by `seq` and held-out rows by index; opened with `open_prompts`.

    Of a set of held-out rows at most `prompts` are used, evenly spaced over all of them.
    """

    def __init__(self, train: "Task | _Files", held_out: Mapping[str, "_HeldOut"]) -> None:
        self._train = train
        self._held_out = held_out
        self.files = train.files if isinstance(train, _Files) else []
        """Training files, without what is not kept; none of a task."""
        self.train_count = sum(file.count for file in self.files) or None
        """Rows of one pass over all of the data; None: an endless generator."""
        self.eval_counts = {name: each.count for name, each in held_out.items()}
        """Rows of each set of held-out prompts, by its name."""
        self.eval_count = sum(self.eval_counts.values())
        """Held-out rows of all sets."""
        self._train_rows = _TASK_ROWS if self.train_count is None else self.train_count
        parts = [file.digest for file in self.files] if isinstance(train, _Files) else [train.digest]
        self.digest = _digest([*parts, *(each.rows.digest for each in held_out.values())])
        """Depends on the data alone."""

    def train(self, seq: int) -> Row:
        """Return the row of work order `seq`."""
        return self._train.train(seq)

    def eval(self, index: int, name: str = HELD_OUT) -> Row:
        """Return held-out row `index` of a set; DataError if there is none."""
        held_out = self._held_out.get(name)
        if held_out is None or not 0 <= index < held_out.count:
            raise DataError(f"there is no held-out prompt {index} of {name[:64]!r}")
        return held_out.rows.eval(index * held_out.rows.eval_count // held_out.count)

    @property
    def count(self) -> int:
        """Rows that `row` knows: those of the training data, the first ones of a task, and the held-out ones."""
        return self._train_rows + self.eval_count

    def row(self, index: int) -> Row:
        """Return a row of the data in its own order: training rows, file by file, then held-out ones."""
        if index >= self._train_rows:
            index -= self._train_rows
            for name, count in self.eval_counts.items():
                if index < count:
                    return self.eval(index, name)
                index -= count
        for file in self.files:
            if index < file.count:
                return file.eval(index)
            index -= file.count
        return self._train.train(index)

    def most_tokens(self) -> NDArray[np.int64]:
        """Return [count]: an upper bound of the tokens of each row's prompt."""
        known = [tokens for file in self.files for tokens in file.survey.most_tokens]
        rest = [most_tokens(self.row(index).prompt) for index in range(len(known), self.count)]
        return np.array([*known, *rest], dtype=np.int64)

    def examples(self) -> list[Example]:
        """Return one training row for each kind of value that a column of a file holds; none of a task."""
        found, before = [], 0
        for file in self.files:
            found += [replace(each, index=each.index + before) for each in file.survey.examples()]
            before += file.count
        return found


def open_prompts(data: DataConfig, *, run_folder: Path, seed: int) -> Prompts:
    """Open and check the data that `data` names.

    Raises:
        ConfigError: the task does not exist.
        DataError: the file is missing, broken, empty or of an unsupported kind, or a row is invalid.
    """
    if data.task and data.demonstration not in ("", TASK_DEMONSTRATION):
        raise DataError(
            f"{data.task} has no column {data.demonstration!r}",
            where=DEMONSTRATION,
            fix=f'write "{TASK_DEMONSTRATION}", or leave the key out',
        )
    train = _at("data.train", lambda: _open_task(data.task, seed) or _Files(data, run_folder, seed))
    held_out = {}
    for name, each in data.eval_sets.items():
        key = "data.eval" if isinstance(data.eval, str) else f"data.eval.{name}"
        source = "" if isinstance(data.eval, str) else name
        held_out[name] = _at(key, partial(_open_held_out, NamedFile(each.file, source), data, run_folder, seed))
    return Prompts(train, held_out)


def tokenize(row: Row, tokenizer: Tokenizer, *, max_new_tokens: int, max_model_len: int) -> Prompt:
    """Return the tokens of `row`: text with the tokenizer's own special tokens, messages through its chat template.

    Raises:
        PromptTooLongError: fewer than `max_new_tokens` are left of `max_model_len`.
        DataError: the template refuses the messages, or the prompt has no tokens.
    """
    ids = encode(row, tokenizer)
    if len(ids) + max_new_tokens > max_model_len:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens, and {max_new_tokens} for the response do not fit into {max_model_len}",
            where=row.where,
            fix='lower sampling.max_new_tokens, raise model.max_model_len, or set data.too_long = "skip"',
        )
    return Prompt(ids, row.prompt, row.columns, row.source, row.steps)


def encode(row: Row, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return the tokens of `row`, of whatever length; DataError as `tokenize`."""
    ids = np.asarray(_ids(row, tokenizer), dtype=np.int32)
    if not len(ids):
        raise DataError("the prompt has no tokens", where=row.where, fix="remove the row or fill the prompt")
    return ids


def _ids(row: Row, tokenizer: Tokenizer) -> object:
    if isinstance(row.prompt, str):
        return tokenizer.encode(row.prompt)
    try:
        return tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
    except Exception as error:  # templates are programs and may raise anything
        raise DataError(
            f"the tokenizer's chat template refuses the messages: {error}",
            where=row.where,
            fix="use the roles and message order of the model's template, or give the prompt as text",
        ) from error


class _Files:
    """Training files in the shares of their weights."""

    def __init__(self, data: DataConfig, run_folder: Path, seed: int) -> None:
        names = data.train_files
        require_weights(list(data.train) if isinstance(data.train, dict) else [], list(data.mixture))
        self._mixture = Mixture([data.mixture.get(name, 1) for name in names])
        opened = [NamedFile(name, source, number) for number, (source, name) in enumerate(names.items())]
        self._files = [TrainingFile(each, data, run_folder, seed) for each in opened]
        self.files = [each.file for each in self._files]
        if data.demonstration and not any(file.demonstrations for file in self.files):
            raise DataError(
                f"column {data.demonstration!r} is empty in all rows",
                where=DEMONSTRATION,
                fix="name the column of expert responses, or leave the key out",
            )

    def train(self, seq: int) -> Row:
        file, place = self._mixture.draw(seq)
        return self._files[file].train(place)


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """A set of held-out prompts, of which `count` are used."""

    rows: Task | DataFile
    count: int


def _open_held_out(file: NamedFile, data: DataConfig, run_folder: Path, seed: int) -> _HeldOut:
    rows = _open_task(file.name, seed) or DataFile(file, data, run_folder, trains=False)
    prompts = data.eval_sets[file.source or HELD_OUT].prompts
    return _HeldOut(rows, min(rows.eval_count, prompts or rows.eval_count))


def _open_task(name: str, seed: int) -> Task | None:
    return open_task(name.removeprefix(TASK), seed) if name.startswith(TASK) else None


def _at(key: str, opened: Callable[[], Opened]) -> Opened:
    """Return what is opened; errors say the configuration's `key`, and where in the data they are."""
    try:
        return opened()
    except (ConfigError, DataError) as error:
        if error.where.startswith(CHOOSING):
            raise
        where = f"{key} ({error.where})" if error.where else key
        raise type(error)(error.what, where=where, fix=error.fix) from error


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
