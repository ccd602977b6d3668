"""Names and types of the files of a run's folder. The docstring below a key states its meaning and unit."""

from pathlib import Path
from typing import Literal, Self

from isentrope.errors import IsentropeError, OutcomeError, StorageError
from isentrope.learner import json_files
from isentrope.learner.beginning_record import Beginning
from isentrope.learner.json_files import FileRecord
from isentrope.learner.measures import (
    AlarmFigures,
    BatchProcess,
    BatchTime,
    EntropyHistogram,
    EntropyLaw,
    FunctionReward,
    Measures,
    RaisedAlarm,
    Untrained,
)
from isentrope.learner.outage_record import OutageRow, Recovery
from isentrope.learner.placement_record import PlacementRecord, ScaleRow


class Outcome(FileRecord):
    """End of a run: `outcome.json`. Written by rank 0 at its end, or by the command after an error outside of it."""

    FILE = "outcome.json"
    INDISPENSABLE = frozenset({"status", "exit_code"})

    status: Literal["finished", "stopped", "error"]
    """End of the run: all batches are trained, an operator asked for it, or the error of `what`, `where` and `fix`."""
    exit_code: int
    """Exit code of the command; 0 without an error."""
    what: str
    """Message of the error; empty without one."""
    where: str
    """File, key or process of the error; may be empty."""
    fix: str
    """Advice about the error; may be empty."""
    incarnation: int
    """Number of learners the run has had; each start or restart is one."""
    batches: int
    """Trained batches, over the whole run."""
    version: int
    """Newest published version of the weights."""
    trained: int
    """Trained groups, over the whole run."""
    retired: dict[str, int]
    """Groups that were issued and not trained, by reason, over the whole run."""
    issued: int
    """Groups that were ordered, over the whole run; the sum of `trained` and `retired` once it has ended."""
    published: int
    """Groups that actors published since the broker's state began."""
    again: int
    """Orders that were given out again since the broker's state began, because an actor or the broker had lost them."""
    idle_s: float
    """Seconds that this learner waited for batches."""
    total_s: float
    """Seconds from this learner's start to its end."""

    @classmethod
    def of_nothing(cls, what: str = "") -> Self:
        """Return the outcome of a run that was stopped before anything was trained."""
        return cls(
            status="stopped",
            exit_code=0,
            what=what,
            where="",
            fix="",
            incarnation=0,
            batches=0,
            version=0,
            trained=0,
            retired={},
            issued=0,
            published=0,
            again=0,
            idle_s=0.0,
            total_s=0.0,
        )

    def ended_by(self, error: IsentropeError) -> Self:
        """Return the same counts of a run that this error has ended."""
        why = {"what": error.what, "where": error.where, "fix": error.fix}
        return self.model_copy(update={"status": "error", "exit_code": error.exit_code, **why})

    def write(self, folder: Path) -> None:
        """Write the file; OutcomeError if the disk refuses it."""
        try:
            json_files.write(folder, self)
        except StorageError as error:
            how = f"the run has ended after {self.batches} batches ({self.what or self.status}), and"
            raise OutcomeError(f"{how} {error.what}", where=error.where, fix=error.fix) from None


RUN_SCHEMA = 2
"""Schema of the run folders that this version writes and continues."""


class RunRecord(FileRecord):
    """The run in a folder, and how to reach it: `run.json`. Written by the command that runs; holds no secrets."""

    FILE = "run.json"
    INDISPENSABLE = frozenset(
        {"run", "config_digest", "data_digest", "mode", "batches", "started", "socket", "url_env", "insecure"}
    )

    schema_version: int
    """Schema of the run folder; 0: of the first version, which wrote none. A newer version's is refused."""
    run: str
    """Name of the run."""
    config_digest: str
    """Digest of the configuration, which a run keeps to its end."""
    data_digest: str
    """Digest of all data of the run."""
    method: str
    """Presets of the objective, joined by ` + `."""
    mode: str
    """Mode that the run began in: `async` or `on_policy`."""
    correct: str
    """Rule by which a response is correct: a value and its threshold; empty where rewards are graded."""
    seed: int
    """Seed of the run."""
    batches: int
    """Batches to train."""
    actors: int
    """Rollout actors to start."""
    ranks: int
    """Processes of the learner."""
    run_file: str
    """Path of the run file; empty: the run had none. `run.toml` beside this file holds what it said."""
    started: float
    """Start of the newest command, in seconds of Unix time."""
    versions: dict[str, str]
    """Versions of this program, of Python and of the libraries that matter, by name."""
    host: str
    """Machine of the command."""
    pid: int
    """Process id of the command."""
    socket: str
    """Path of the private broker's socket, with passwords of roles beside it; empty: a broker by URL."""
    url_env: str
    """Environment variable that holds the broker's URL; used where `socket` is empty."""
    password_file: str
    """File of the broker's password; empty: the URL holds it, or there is none."""
    passwords: str
    """Folder of the passwords of the broker's users, one for each role; empty: all have the same one."""
    ca_file: str
    """File of the certificate authorities of a broker by TLS; empty: the system's."""
    insecure: bool
    """True if a broker on another host may have no password."""
    only: str
    """Part of training that this run does, as `--only` has it: `train` or `rollout`; empty: all of it."""
    groups_of: str
    """Folder of the run whose kept groups are trained, without a broker and actors; empty: actors make them."""


class BatchRow(FileRecord):
    """One trained batch: a line of `metrics.jsonl`. Written by rank 0 of the learner. Equal runs have equal lines but
    for `time`, `process`, and the entropy law of an objective that replaces groups."""

    FILE = "metrics.jsonl"
    INDISPENSABLE = frozenset({"batch", "mode", "reward", "entropy", "tokens"})

    batch: int
    """Number of the batch; the first is 1."""
    reward: float
    """Mean reward of a response, as the reward functions gave it."""
    reward_std: float
    """Standard deviation of the reward over responses."""
    rewards: dict[str, FunctionReward]
    """Values of each reward function by its name, and of components as `function.component`: the 256 most frequent."""
    pass_rate: float | None = None
    """Share of the responses that are correct by `data.correct`; absent where rewards are graded."""
    entropy: float
    """Mean entropy of the next-token distribution in nats per trained token, over the updates that were applied; before
    the first update if none was."""
    entropy_deciles: tuple[float, ...] | None = None
    """Nine deciles over tokens of the entropy before the first update, nats; absent if no token was trained."""
    entropy_hist: EntropyHistogram | None = None
    """Histogram of the entropy before the first update; absent if no token was trained."""
    loss: float
    """Loss of an update, mean of those that were applied."""
    clip_high: float
    """Share of tokens with a positive advantage that the clip has cut off: their probability had risen enough."""
    clip_low: float
    """Share of tokens with a negative advantage and a ratio of at most 1 that the clip has cut off: fallen enough."""
    ratio_mean: float
    """Mean ratio of the objective, as a rule of the current policy to that before the batch; 1 without an update."""
    ratio_max: float
    """Largest ratio of the objective over all updates and the tokens whose weight in the policy term was not 0."""
    kept: float
    """Share of the trained tokens that the filters kept."""
    tokens: int
    """Trained tokens: generated by a policy, and not too old."""
    length_mean: float
    """Mean tokens of a response."""
    truncated: float
    """Share of the responses that the length limit ended."""
    logp_gap_mean: float
    """Mean absolute difference between a token's log-probability by the learner and by the engine, nats."""
    logp_gap_max: float
    """Largest absolute difference between a token's log-probability by the learner and by the engine, nats."""
    grad_norm: float
    """Norm of the gradient before clipping, mean of the updates that were applied; 0 if none was."""
    updates: int
    """Optimizer updates that were due."""
    skipped: int
    """Updates that were not applied: filters had left nothing, or loss or gradient was not finite."""
    groups: int
    """Groups of the batch."""
    responses: int
    """Responses of the batch."""
    lag_mean: float
    """Mean age in batches of the version that generated a trained token."""
    lag_max: int
    """Largest age in batches of the version that generated a trained token."""
    lag_hist: dict[int, int]
    """Trained tokens by that age in batches."""
    tokens_masked: int
    """Tokens that were too old to be trained."""
    untrained: Untrained
    """Responses that were asked for and did not train."""
    objective: Measures
    """Measures of the objective's stages and monitors."""
    mode: Literal["async", "on_policy"]
    """Mode that the batch was planned in."""
    trained: int
    """Groups that were trained so far."""
    retired: int
    """Groups that were issued and retired so far."""
    issued: int
    """Groups that were ordered so far."""
    process: BatchProcess
    """Values that depend on the processes."""
    version: int
    """Newest announced version of the weights after the batch; one that is still being written comes later."""
    alarms: dict[str, RaisedAlarm] | None = None
    """Alarms that are on, by their key of `[learner.alarms]`: the measured `value` and its `bound`; absent: none."""
    time: BatchTime
    """Time by activity."""


class EvalRow(FileRecord):
    """One evaluation on held-out prompts: a line of `eval.jsonl`. Written by rank 0 of the learner."""

    FILE = "eval.jsonl"
    INDISPENSABLE = frozenset({"batch", "prompts", "samples"})

    batch: int
    """Trained batches after which the model was evaluated; 0: the model before training."""
    version: int
    """Version of the weights."""
    name: str
    """Name of the set of prompts."""
    prompts: int
    """Prompts that were answered."""
    samples: int
    """Responses of each prompt; the smallest number if some are missing."""
    pass_at: dict[int, float]
    """Share of prompts that at least one of k responses solves, an unbiased estimate; empty if graded or unanswered."""
    by_prompt: dict[int, float] | None = None
    """Share of correct responses (mean reward, if graded) of each prompt that was answered, by its place."""
    reward: float
    """Mean reward of a response."""
    rewards: dict[str, FunctionReward]
    """Values of each reward function and of its components by name, as in `metrics.jsonl`."""
    length_mean: float
    """Mean tokens of a response."""
    truncated: float
    """Share of the responses that the length limit ended."""
    entropy: float | None = None
    """Mean entropy in nats per token of the responses that `samples.jsonl` shows the prompts of; absent without."""


class SampleRow(FileRecord):
    """One response to a held-out prompt: a line of `samples.jsonl`. Written by rank 0 of the learner."""

    FILE = "samples.jsonl"
    INDISPENSABLE = frozenset({"batch", "index", "prompt", "tokens", "entropy", "reward"})

    batch: int
    """Trained batches after which the response was generated."""
    name: str = "heldout"
    """Name of the set of prompts."""
    index: int
    """Place of the prompt in its set."""
    prompt: str
    """The prompt as text, with the chat template in it."""
    tokens: tuple[str, ...]
    """Text of each token of the response."""
    entropy: tuple[float, ...]
    """Entropy of the learner's distribution at each token, nats."""
    reward: float
    """Reward of the response."""
    rewards: dict[str, float]
    """Value of each reward function that applied, and of its components, by name."""
    correct: bool | None = None
    """True if the response is correct by `data.correct`; absent where rewards are graded."""


class Notice(FileRecord):
    """One warning of the learner, which the command shows too: a line of `notices.jsonl`. Written by rank 0 of the
    learner; of warnings that differ in numbers only, the first of each start."""

    FILE = "notices.jsonl"

    at: float
    """Time of the warning, seconds of Unix time."""
    text: str
    """The warning."""


class Summary(FileRecord):
    """A run in a few numbers: `summary.json`. Written with the report, by the command that runs. null: not known,
    because a part of the run has not happened yet or left no record."""

    FILE = "summary.json"

    status: str | None
    """End of the run: `finished`, `stopped` or `error`."""
    mode: str | None
    """Mode of the newest batch: `async` or `on_policy`."""
    method: str | None
    """Presets of the objective, joined by ` + `."""
    seed: int | None
    """Seed of the run."""
    groups_of: str | None
    """Folder of the run whose kept groups were trained; empty: actors have made them."""
    batches: int
    """Trained batches."""
    reward_first: float | None
    """Mean reward of the first ten batches."""
    reward_last: float | None
    """Mean reward of the last ten batches."""
    entropy_first: float | None
    """Mean entropy of the first ten batches, nats per token."""
    entropy_last: float | None
    """Mean entropy of the last ten batches, nats per token."""
    entropy_law: EntropyLaw | None
    """The entropy law of the newest batch."""
    pass_at_1_before: float | None
    """Share of correct responses to held-out prompts before training; null where rewards are graded."""
    pass_at_1_after: float | None
    """Share of correct responses to held-out prompts at the last evaluation; null where rewards are graded."""
    reward_held_out_before: float | None
    """Mean reward of responses to held-out prompts before training."""
    reward_held_out_after: float | None
    """Mean reward of responses to held-out prompts at the last evaluation."""
    groups_issued: int | None
    """Groups that were ordered."""
    groups_published: int | None
    """Groups that actors published since the broker's state began."""
    groups_trained: int | None
    """Groups that were trained."""
    groups_retired: int | None
    """Groups that were issued and retired."""
    retired: dict[str, int]
    """Groups that were issued and retired, by reason."""
    tokens_trained: int
    """Trained tokens."""
    ranks: list[int]
    """Numbers of learner ranks that trained, in their order. Sums over ranks are rounded in another order with each
    change, so a run with more than one is not to the bit that of one number."""
    max_token_lag: int | None
    """Largest age in batches of the version that generated a trained token."""
    logp_gap_first: float | None
    """Mean absolute difference between the log-probabilities of learner and engine in the first batch, nats."""
    alarms: dict[str, AlarmFigures]
    """Alarms that were on at any time, by their key of `[learner.alarms]`: the `first` and the `last` batch in alarm,
    the number of `batches` in alarm, the `worst` value and its `bound`."""
    versions_proven: int
    """Versions that an actor was seen to serve with proof that they are the learner's."""
    versions_refused: int
    """Loads of a version that failed or were refused, the largest `process.served.refused` of all batches: those of an
    actor that ended before the next batch was trained are not counted."""
    canary_gap_mean: float | None
    """Mean difference of engine and learner on a canary's log-probabilities, nats, the largest of all batches."""
    canary_gap_max: float | None
    """Largest such difference of all batches, nats."""
    canary_seconds: float | None
    """Seconds in which an engine computed a canary and served nothing, median of all batches."""
    seconds_total: float | None
    """Seconds from the start of the newest command to the learner's end."""
    seconds_startup: float | None
    """Seconds of it until the first batch could be trained, with the first evaluation."""
    tokens_per_second: float | None
    """Trained tokens by the time after start-up, evaluations left out."""
    learner_idle_share: float | None
    """Share of that time in which the learner waited for groups."""
    recovery: Recovery | None
    """Faults that the newest command has outlived, and what they cost."""
    versions: dict[str, str]
    """Versions of this program, of Python and of the libraries that matter, by name."""


_WHOLE = (Outcome, RunRecord, PlacementRecord, Beginning, Summary)
FILES: tuple[type[FileRecord], ...] = (*_WHOLE, BatchRow, EvalRow, SampleRow, Notice, ScaleRow, OutageRow)
"""Every file of a run folder that holds records."""
