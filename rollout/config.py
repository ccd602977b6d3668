"""Configuration tables that actors and learner share: run, model, data, sampling, broker, weights."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from isentrope.rollout.units import (
    Batches,
    Bytes,
    Factor,
    Gib,
    Limits,
    Port,
    Prompts,
    Responses,
    Seconds,
    Temperature,
    Times,
    Tokens,
)

MAX_REWARD = 1e30
"""Largest absolute value of a reward or of a part of one: sums and squares of any number of them are finite."""

TASK = "task:"
"""Prefix that tells a built-in task from a file."""

SECRET_PATH = r"^([/~].*)?$"

SecretPath = Annotated[str, Field(pattern=SECRET_PATH)]
"""Absolute path, or one in the user's home; empty: none."""

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"

SOURCE = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
ORDER = r"^(shuffled|file|scored:[^ ]+( descending)?)$"

PATTERNS = {
    SOURCE: "a name of letters, digits, _ and -, 63 at most",
    ORDER: '"shuffled", "file", "scored:<column>" or "scored:<column> descending"',
    SECRET_PATH: "an absolute path, or one that begins with ~, as processes in other folders read it too",
    NAME: "lower-case letters, digits and hyphens, 63 at most, and no hyphen in front",
}
"""Demands on texts in words, by the pattern that they must match."""


class Section(BaseModel):
    """Base of every configuration table: immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """`[run]`: what the run is called, its seed, and where its files go."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the run in the broker: lower-case letters, digits and hyphens, 63 at most, because it is part of an
    access rule. A name that another configuration has in the same broker is refused."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Seed of prompts, sampling and random selections. Two runs that differ in nothing else show how far apart chance
    alone puts them."""
    output_dir: str = ""
    """Folder for checkpoints, weights, metrics and the report, relative to the run file; empty: `runs/<name>`. On
    several machines it must be one that all of them share."""
    base_dir: str = ""
    """Folder at which the file's other relative paths start and in which `module:function` is looked for, relative to
    the run file; empty: the run file's own. `run.toml` in a run's folder names the folder of the file it was made
    from."""


class ModelConfig(Section):
    """`[model]`: the model that is trained."""

    path: str
    """Hugging Face id, or a folder with config, tokenizer and safetensors; the weights that training starts from."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of weights and computation. `bfloat16` halves the memory and widens the gap between the engine's
    and the learner's log-probabilities; `float32` is for CPUs and for runs that must repeat to the bit."""
    max_model_len: Tokens | None = None
    """Longest prompt plus response, in tokens; unset: the model's own limit. Too low refuses or skips long prompts; too
    high makes the engine reserve key-value cache for lengths that never come."""
    reference: str = ""
    """Model of the reference policy, in the forms of `path`; empty: `path`. A teacher for the methods that learn from
    one, which must have the same tokenizer; with it nothing can refresh the reference."""
    chat_template: str = ""
    """Jinja template of chat prompts: its text, or `file:` and a path relative to the run file; empty: the tokenizer's
    own. One that the model was not trained with puts every prompt into a form that it does not know."""
    chat_template_args: dict[str, JsonValue] = {}
    """Values of the template's variables, such as `{enable_thinking = false}`. A name that the template does not use is
    refused."""


SourceName = Annotated[str, Field(pattern=SOURCE)]
"""Name of a data file among several."""


HELD_OUT = "heldout"
"""Name of the held-out prompts where `data.eval` names one file."""


class EvalSet(Section):
    """`[data.eval.<name>]`: one of several sets of held-out prompts. What is not set is as for all of them."""

    file: str
    """Held-out prompts of this set, in the forms of `data.eval`."""
    prompts: Prompts | None = None
    """Prompts of an evaluation, at most; unset: `data.eval_prompts`."""
    samples: Responses | None = None
    """Responses to each prompt; unset: `data.eval_samples`."""
    temperature: Temperature | None = None
    """Temperature of the responses; unset: `data.eval_temperature`."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of probability that sampling keeps; unset: `data.eval_top_p`."""


class DataConfig(Section):
    """`[data]`: prompts, held-out prompts, and what rewards an answer."""

    train: str | dict[SourceName, str]
    """Training prompts: a jsonl, json, csv or parquet file, relative to the run file; a data set of the Hugging Face
    Hub, or a folder, as `<id>:<configuration>:<split>`, such as `openai/gsm8k:main:train` (`<id>` alone: its only
    configuration, split `train`); or `task:<name>` for a built-in generator. Several files are a table of names, which
    are then the sources in all records: `{math = "math.jsonl", logic = "logic.jsonl"}`."""
    mixture: dict[SourceName, Annotated[int, Limits(1, 1000)]] = {}
    """Weights of several training files, by their names: `{math = 3, logic = 1}`. After any number of prompts each file
    has given its share of them, exactly to less than one prompt. A large weight of a small file repeats its prompts
    sooner."""
    order: Annotated[str, Field(pattern=ORDER)] = "shuffled"
    """Order of each file's prompts: `"shuffled"` anew in each pass; `"file"`, as they stand in it; or by the values of
    a column, of the data or of what `isentrope score` wrote beside them: `"scored:answer_entropy"`, the smallest first,
    or `"scored:pass_rate descending"`. Kills and resumed runs do not change it. Easy prompts first make early batches
    steadier; hard ones first may give no signal at all."""
    stages: Annotated[int, Limits(1, 10_000)] = 1
    """Blocks of equal length into which an order that is not shuffled is cut; within one, prompts are shuffled. With 1
    the order is kept exactly. Many small ones are almost that, and few leave more to chance."""
    stage_passes: Annotated[int, Limits(1, 10_000)] = 1
    """Passes over the prompts of one stage before the next begins. After the last stage the first one comes again."""
    keep: str = ""
    """Condition of the training prompts that are used, over columns of the data or of what `isentrope score` wrote
    beside them: `"0 < pass_rate < 1"`, or comparisons joined by `and`, `or` and `not`. Empty: all. No
    comparison with null holds. Too narrow and the few prompts that are left are soon learned by heart."""
    eval: str | dict[SourceName, str | EvalSet] = ""
    """Held-out prompts, in the same forms; empty: none, and no evaluation. A task has a held-out part of its own.
    Several sets are a table of names, `{aime = "aime.jsonl", math = {file = "math.jsonl", samples = 4}}`, each with
    figures of its own; `prompts`, `samples`, `temperature` and `top_p` of a set are `data.eval_…` where left out."""
    reward: str | list[str] = ""
    """Reward function, or several that are added: a built-in name, or `module:function` with TRL's signature; empty:
    the task's own verifier."""
    reward_weights: list[Factor] = []
    """Factor of each reward function, in their order; empty: all 1."""
    reward_timeout_s: Seconds = 60.0
    """Seconds one call of the reward may take before its process is killed and the call repeated. Too low fails slow
    verifiers, and their groups are retired; too high lets endless calls hold up a group for
    three times as long, because a call is tried three times."""
    reward_memory_gib: Gib = 8.0
    """Memory that the processes of one reward worker may take together, in GiB. A function that asks for more fails
    with MemoryError, and processes that exceed it together are killed. Too low fails functions that load a model; too
    high lets one bad answer take the memory of engine and learner."""
    reward_variables: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = []
    """Environment variables that the reward functions get beside those of locale, paths, caches and processors, such as
    the key of a judge. Too few and a function misses its key; each one more is told to all code that rewards run."""
    sandbox: Literal["none", "bwrap"] = "none"
    """Sandbox of the reward functions: `"bwrap"`, bubblewrap's, without network, and with no files but programs,
    libraries and the folder of the run file, to read; refused where bubblewrap is missing or cannot make one. With
    `"none"` they may do what the run's user may: for code that a model wrote, that is too little."""
    sandbox_folders: list[str] = []
    """Further folders that the reward functions may read in a sandbox, by absolute paths. Too few and a function misses
    its files; each one more can be read by all code that rewards run."""
    prompt: str = "prompt"
    """Column that holds the prompt, or the dotted path to it inside a column: text as it is, or chat messages
    (`[{role, content}, ...]`) for the tokenizer's template."""
    steps: str = ""
    """Column of the training data with steps of reasoning whose verdict is known, or the dotted path to it inside a
    column: `[["3 + 4 = 7", true], ["3 + 4 = 8", false], ...]`, or maps `{step, correct}`. A paragraph of a response
    that is one of them, but for white space, is judged so; the others are of no step. Where a reward function gives
    `steps` for a response, those count instead. Empty: the data holds none. Few known steps leave most of a response
    unjudged, which is then weighed as by a method that takes no notice of steps."""
    system_prompt: str = ""
    """System message of chat prompts that do not begin with one: its text, or `file:` and a path relative to the run
    file; empty: none. Prompts that are text are refused with it, because they have no place for it."""
    columns: dict[str, str] = {}
    """Renamed columns: name that the reward expects = name in the file, or the dotted path to a value inside a column,
    such as `answer = "reward_model.ground_truth"`."""
    demonstration: str = ""
    """Column that holds an expert's response to each training prompt, or the dotted path to it inside a column: text,
    or messages of which the last is the assistant's; null or empty: that prompt has none. `"demonstration"` for a
    built-in task. Only methods that need demonstrations read it: they train its tokens, with the model's end token
    behind them, beside the sampled responses, and cut it off after `sampling.max_new_tokens`. Empty: there is no such
    column."""
    too_long: Literal["error", "skip"] = "error"
    """Treatment of a prompt that leaves no room for `sampling.max_new_tokens`: the run ends, or its group is retired
    as `too_long`."""
    bundle: list[str] = ["*.py"]
    """Files beside the run file that actors on other machines get, with the rewards' modules, the data, and the
    model's configuration and tokenizer: patterns such as `"templates/*.json"`. Too few and a reward misses a file
    there; too many make every start of an actor copy them. Names that credentials have, `.env` or `*.pem`, are left
    out."""
    correct: str = ""
    """Rule by which a response is correct: `"rewards:accuracy"`, the value of that reward function above 0.5, or above
    another threshold: `"rewards:accuracy > 0.9"`; `"reward > 1.5"`, the weighted sum above 1.5; or `"nothing"`, where
    rewards are graded. Unset, the only function decides; several need this key. A function that returns None for a
    response does not make it correct. Pass rates, pass@k and the stages that read `correct` follow it, before any
    shaping: too high a threshold and nothing ever counts, too low and everything does."""
    eval_prompts: Prompts = 200
    """Held-out prompts of an evaluation, at most. Too few and pass@k jumps by chance; too many and training waits
    longer for every evaluation."""
    eval_samples: Responses = 8
    """Responses to each held-out prompt; the largest k of pass@k that can be told. More cost time in proportion."""

    eval_temperature: Temperature | None = None
    """Temperature of evaluations; unset: `sampling.temperature`. Low ones tell what the model answers most often, and
    leave pass@k little to find."""
    eval_top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of probability that sampling keeps in evaluations, which train nothing. Low ones cut off rare answers."""

    @property
    def eval_sets(self) -> dict[str, EvalSet]:
        """Sets of held-out prompts by their names, sorted, with all that holds for them but an unset temperature."""
        given: Mapping[str, str | EvalSet] = self.eval if isinstance(self.eval, dict) else {}
        if isinstance(self.eval, str) and (file := self.eval or self.task):
            given = {HELD_OUT: file}
        whole = {
            "prompts": self.eval_prompts,
            "samples": self.eval_samples,
            "temperature": self.eval_temperature,
            "top_p": self.eval_top_p,
        }
        sets = {name: EvalSet(file=each) if isinstance(each, str) else each for name, each in sorted(given.items())}
        return {
            name: each.model_copy(update={key: value for key, value in whole.items() if getattr(each, key) is None})
            for name, each in sets.items()
        }

    @property
    def task(self) -> str:
        """Built-in task that makes the training prompts, as `task:<name>`; empty: they are read."""
        return self.train if isinstance(self.train, str) and self.train.startswith(TASK) else ""

    @property
    def train_files(self) -> dict[str, str]:
        """Training files or data sets by their names, sorted; a single one has the name ""; none: a task."""
        if isinstance(self.train, str):
            return {} if self.task else {"": self.train}
        return dict(sorted(self.train.items()))


class SamplingConfig(Section):
    """`[sampling]`: how responses are drawn from the model."""

    group_size: Responses = 8
    """Responses to one prompt. Too few and baselines within the group are noisy, or 0 for a single response; too many
    spend the batch on few prompts."""
    min_group: Responses = 2
    """Responses that a group must have left when some of its `group_size` failed, by engine, reward or record; with
    fewer it is retired. Unset and with a baseline that needs whole groups: all. Too low trains on groups that say
    little; too high throws away healthy responses."""
    temperature: Temperature = 1.0
    """Divides the logits before sampling; the learner computes its log-probabilities at the same temperature. Too low
    explores little and loses entropy sooner; too high samples errors that the model alone would not make. Below 0.01
    vLLM would sample at 0.01, and the learner's log-probabilities would be those of another distribution."""
    max_new_tokens: Tokens = 1024
    """Longest response, in tokens. Too low cuts answers off, which then mostly count as wrong; too high lets a few
    long responses hold up a batch, and needs `learner.micro_batch_tokens` to match."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end a response, beside the model's own end token. The tokens up to the one that completes a text
    belong to the response: they are trained, and the reward sees them. A text that occurs within good answers cuts them
    off."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of probability that sampling keeps, of what `top_k` has left. Below 1 it needs `top_k`, and what that
    needs. Evaluations have `data.eval_top_p` instead."""
    top_k: Annotated[int, Limits(-1, 1 << 24, "tokens")] = -1
    """Number of likeliest tokens that sampling keeps; -1 or 0: all. Needs `ratio.sampling_mask = "engine"` in
    `[learner.objective]`: else log-probabilities would be those of another distribution. The kept tokens of each token
    travel in the record, 4 bytes for each and 4 more: at most 4 (`top_k` + 1) bytes a token, 204 for 50. Too low cuts
    off tokens that training can then never raise; too high makes records large. Evaluations keep all."""

    @property
    def truncates(self) -> bool:
        """True if tokens are not sampled from the whole vocabulary."""
        return self.top_k > 0


class RedisConfig(Section):
    """`[redis]`: the broker, and how much it may hold."""

    url_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "ISENTROPE_REDIS_URL"
    """Name of the environment variable that holds the broker's URL, which a run file must not: it holds a password. If
    the variable is unset, a private bundled server is started."""
    password_file: SecretPath = ""
    """File that holds the broker's password, by its absolute path, where the URL has none; empty: it has one, or there
    is none. All processes of the run are then one user of the broker, who needs the rights of all of them."""
    passwords: SecretPath = ""
    """Folder of `ROLE.password` for the roles `command`, `learner` and `actor`, as `deploy/redis/make-acl.sh` makes it,
    by its absolute path, in place of `password_file`: each process is then the user of its role, with the rights of
    that alone, and the URL names none; empty: there is none."""
    ca_file: SecretPath = ""
    """File of the certificate authorities that a broker by `rediss://` is checked with, PEM, by its absolute path;
    empty: the system's."""
    max_bytes: Bytes = 1 << 30
    """Budget for groups that no checkpoint covers yet, in bytes; above it no order is issued. Too low makes actors
    wait between checkpoints; too high can fill the server's memory."""
    max_record_bytes: Bytes = 64 << 20
    """Largest record, in bytes; a larger one is refused before it is decoded. Too low refuses groups of many long
    responses; too high lets one bad record take that much memory."""
    timeout_s: Seconds = 300.0
    """Seconds for which the learner and the actors go on trying while the broker does not serve: it is away, starts
    again, loads its data, or another one takes its place. Then they end with exit code 69. Too low ends a run, or
    loses generated groups, when Redis restarts; too high keeps machines waiting for a server that is gone."""
    insecure: bool = False
    """Allow a server on another host without a password. Whoever reaches it can then read prompts and forge groups."""


class WeightsConfig(Section):
    """`[weights]`: new versions, which reach the actors as files of a depot: the run's folder, a server, or an object
    store."""

    publish_every: Batches = 1
    """Batches between two published versions. Higher saves writing and loading, and makes tokens older: it needs
    `learner.staleness.max_lag` of at least one less. A run that begins `on_policy` needs 1; one that is switched to it
    publishes every version."""
    keep: Annotated[int, Limits(2, 1 << 16, "versions")] = 3
    """Newest versions kept on the disk, beside those that actors still use. Too few and an actor that is slow to load
    finds its version gone; each one more takes the size of the model."""
    depot: str = ""
    """URL of an object store, `s3://bucket/path` or `gs://bucket/path`, or another folder, into which every version is
    copied as well, for actors that do not see the run's folder; empty: none. Its credentials come from the
    environment, as its library reads them."""
    serve: str = ""
    """Address `ADDR:PORT` of this machine, at which the command offers the run's published files over HTTP, read only,
    to actors that do not see its folder; empty: it does not. Requests need a token that follows from the broker's
    password."""

    relay_port: Port | None = None
    """Port at which each machine's actors offer the versions that they have fetched to the actors of other machines,
    so that the depot sends few copies; 0: any free one; unset: they do not, because it opens a port on every machine,
    and pays only where the depot's uplink is the bottleneck. What comes from there is verified and costs time at most;
    it is sent without TLS, and requests need a token. Runs that share machines need different ports."""


class LeaseConfig(Section):
    """Keys of `[actors]` that both sides must know: when an actor counts as gone, and what becomes of its orders."""

    heartbeat_s: Seconds = 5.0
    """Seconds between two signs of life; an actor that is silent for three of them loses its leases. Too low and a
    busy machine loses leases of actors that live; too high and the groups of a dead actor are late."""
    max_tries: Times = 5
    """Leases of one group that may end with their actor's death before the group is retired, with reason `tries`. Too
    low retires good groups on unreliable machines; too high lets one bad prompt kill many actors."""
