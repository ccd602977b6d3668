"""Contradictions between keys are refused, and a run's digest changes with what is learned, and with nothing else."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from isentrope.config import MAY_CHANGE, Config, digest, load
from isentrope.errors import ConfigError
from isentrope.runfile import from_values, known_keys, validate
from isentrope.toml_text import toml_value

FILE_DATA = """
[run]
name = "a"
[model]
path = "m"
[data]
train = "train.jsonl"
reward = "exact"
"""

Number = tuple[tuple[str, ...], Mapping[str, Any]]


def _load(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides)[0]


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["weights.publish_every=4"], "weights.publish_every", "lag of at least 3 batches, and 2 are allowed"),
        (["weights.publish_every=2", "learner.mode=on_policy"], "weights.publish_every", "and 0 are allowed"),
        (["learner.updates_per_batch=5"], "learner.updates_per_batch", "32 groups cannot be split into 5"),
        (["model.max_model_len=1024"], "sampling.max_new_tokens", "leaves no room"),
        (["learner.micro_batch_tokens=1024"], "learner.micro_batch_tokens", "cannot hold a response"),
        (["weights.depot=http://host:1"], "weights.depot", "is read only"),
        (["weights.depot=HTTPS://host:1"], "weights.depot", "is read only"),
        (["weights.depot=ftp://host"], "weights.depot", "begins with file, http, https, s3, gs"),
        (["weights.depot=s3://key:secret@bucket"], "weights.depot", "holds credentials"),
        (["weights.serve='8800'"], "weights.serve", "is not ADDR:PORT"),
        (["redis.max_bytes=1000"], "redis.max_record_bytes", "more than redis.max_bytes = 1000"),
        (
            ["redis.timeout_s=700", "learner.ranks=2"],
            "redis.timeout_s",
            "not below learner.collective_timeout_s = 600",
        ),
        (["redis.passwords=/a", "redis.password_file=/b"], "redis.passwords", "a password for each role"),
        (["sampling.min_group=9", "sampling.group_size=8"], "sampling.min_group", "more than sampling.group_size = 8"),
        (["sampling.top_p=0.9"], "sampling.top_p", "needs sampling.top_k"),
        (["sampling.top_k=3000"], "sampling.top_k", "98336768 bytes of sampling masks"),
        (["data.order=scored"], "data.order", "scored:<column> descending"),
        (["data.eval={a = {file = 'x', sample = 2}}"], "data.eval.a.sample", "unknown key data.eval.a.sample"),
        (["data.eval={a = {samples = 2}}"], "data.eval.a.file", "key data.eval.a.file is missing"),
        (["data.eval={a = {file = 'x', top_p = 0}}"], "data.eval.a.top_p", "must be greater than 0"),
        (["data.eval={'a b' = 'x'}"], "data.eval.a b", "a name of letters, digits"),
        (["data.stages=2"], "data.stages", "cuts an order"),
        (["data.order=file", "data.stage_passes=2"], "data.stage_passes", "needs several data.stages"),
        (["data.train={a = '1.jsonl', b = '2.jsonl'}"], "data.mixture", "'a' has no weight"),
        (["data.train={a = '1.jsonl'}", "data.mixture={a = 1, b = 1}"], "data.mixture", "'b' is not one of"),
        (["data.train={a = '1.jsonl'}", "data.mixture={a = 0}"], "data.mixture.a", "0"),
        (["data.mixture={a = 1}"], "data.mixture", "'a' is not one of data.train's names"),
        (["data.train={a = 'task:digit_walk'}"], "data.train", "cannot be one of several files"),
        (["data.train={}"], "data.train", "names no file"),
        (["data.keep=pass_rate"], "data.keep", "is not a comparison"),
        (["data.train=task:digit_walk", "data.keep=a > 1"], "data.keep", "none to choose or order"),
        (["data.train=task:digit_walk", "data.steps=steps"], "data.steps", "none of them has steps"),
        (["data.reward="], "data.reward", "key data.reward is missing"),
        (['data.reward=["exact_match", "my:form"]'], "data.correct", "2 reward functions, and nothing says"),
        (["data.correct=my:form"], "data.correct", "not one of the reward functions"),
        (["data.correct=reward > much"], "data.correct", "does not say what is correct"),
        (["data.reward_weights=[0.0]"], "data.reward_weights", "are all 0, so every reward is 0"),
        (["data.reward_weights=[1.0, 2.0]"], "data.reward_weights", "2 numbers for 1 rewards"),
        (["learner.eval_every=5"], "learner.eval_every", "no held-out data"),
    ],
)
def test_contradiction_is_refused_at_its_key(tmp_path: Path, overrides: list[str], key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        _load(tmp_path, FILE_DATA, *overrides)
    assert raised.value.where.endswith(f": {key}") and raised.value.fix


def test_all_contradictions_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        _load(tmp_path, FILE_DATA, "sampling.top_p=0.9", "weights.publish_every=9", "learner.updates_per_batch=5")
    assert len(raised.value.exceptions) == 3


def test_a_text_may_lie_in_a_file_and_is_then_part_of_the_digest(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Be brief.")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    named = _load(tmp_path, FILE_DATA, "data.system_prompt=file:system.txt", "model.chat_template=file:chat.jinja")
    written = _load(tmp_path, FILE_DATA, "data.system_prompt=Be brief.", "model.chat_template={{ messages }}")
    assert named == written and named.data.system_prompt == "Be brief."
    (tmp_path / "system.txt").write_text("Be long.")
    other = _load(tmp_path, FILE_DATA, "data.system_prompt=file:system.txt", "model.chat_template=file:chat.jinja")
    assert digest(other, "objective") != digest(named, "objective")


@pytest.mark.parametrize("text", ["x" * 300, "é" * 2500, "line\n" * 1000, "nul \0"])
def test_a_text_of_any_length_is_itself(tmp_path: Path, text: str) -> None:
    override = f"data.system_prompt={toml_value(text)}"
    assert _load(tmp_path, FILE_DATA, override).data.system_prompt == text


@pytest.mark.parametrize(
    ("override", "says", "fix"),
    [
        ("data.system_prompt=file:none.txt", "cannot read .*none.txt: No such file", "check the path"),
        ("data.system_prompt=system.txt", "is the name of a file", 'data.system_prompt = "file:system.txt"'),
        ("model.chat_template=none.jinja", "is not a chat template", "write file:"),
        ("data.train=task:digit_walk", "no place for data.system_prompt", "leave it out"),
    ],
)
def test_a_text_that_is_none_is_refused_at_its_key(tmp_path: Path, override: str, says: str, fix: str) -> None:
    (tmp_path / "system.txt").write_text("Be brief.")
    with pytest.raises(ConfigError, match=says) as raised:
        _load(tmp_path, FILE_DATA, "data.system_prompt=Be brief.", override)
    assert fix in raised.value.fix and raised.value.where.startswith("command line: ")


def test_output_dir_is_relative_to_the_run_file(tmp_path: Path) -> None:
    config = _load(tmp_path, FILE_DATA)
    assert config.output_dir(tmp_path) == tmp_path / "runs" / "a"
    assert _load(tmp_path, FILE_DATA, "run.output_dir=x").output_dir(tmp_path) == tmp_path / "x"
    assert _load(tmp_path, FILE_DATA, "run.output_dir=/x").output_dir(tmp_path) == Path("/x")


OTHER_VALUES: dict[str, object] = {
    "run.name": "b",
    "model.dtype": "float32",
    "model.max_model_len": 4096,
    "data.reward": "other",
    "data.reward_weights": [2.0],
    "data.columns": {"answer": "label"},
    "data.mixture": {"math": 2},
    "data.eval_temperature": 0.5,
    "data.eval_top_p": 0.5,
    "learner.critic.path": "other",
    "learner.critic.learning_rate": 1e-3,
    "data.order": "file",
    "data.steps": "steps",
    "data.demonstration": "solution",
    "data.too_long": "skip",
    "data.bundle": ["*"],
    "weights.depot": "s3://bucket/path",
    "weights.serve": "127.0.0.1:8800",
    "weights.relay_port": 8801,
    "redis.password_file": "/run/secrets/redis",
    "redis.passwords": "/run/secrets",
    "redis.ca_file": "/etc/ca.pem",
    "model.chat_template_args": {"enable_thinking": False},
    "data.reward_variables": ["JUDGE_KEY"],
    "data.sandbox": "bwrap",
    "data.sandbox_folders": ["/data"],
    "sampling.stop": ["</answer>"],
    "learner.method": "dapo",
    "learner.mode": "on_policy",
    "learner.retain": "groups",
    "learner.adam_betas": [0.8, 0.9],
    "learner.staleness.token_max_lag": 1,
    "learner.alarms.action": "stop",
    "actors.canary_limit": 0.1,
    "learner.alarms.logp_gap": 0.5,
    "learner.objective": {"clip": {"high": 0.3}},
    "learner.zero_stage": 3,
    "sampling.top_p": 0.5,
    "actors.max": 9,
    "actors.autoscale": "lag",
    "cluster.gpus": True,
    "cluster.env": {"A": "b"},
    "cluster.learner_labels": {"role": "learner"},
    "cluster.actor_labels": {"role": "actor"},
}


def _tables() -> set[str]:
    return {key.rpartition(".")[0] for key in known_keys(Config)}


@pytest.mark.parametrize("key", [key for key in known_keys(Config) if key not in _tables()])
def test_digest_changes_with_what_is_learned_alone(key: str) -> None:
    before = validate(from_values(Path("a"), tomllib.loads(FILE_DATA)), Config)
    after = validate(from_values(Path("a"), _changed(before.model_dump(mode="json"), key)), Config)
    assert after != before
    same = digest(before, "objective") == digest(after, "objective")
    by_the_objective = key in ("learner.method", "learner.objective")  # it stands for them, merged
    tables = {key.rsplit(".", depth)[0] for depth in range(key.count(".") + 1)}  # the key, and each table that it is in
    assert same == (bool(tables & set(MAY_CHANGE)) or by_the_objective)


def test_the_digest_of_a_run_that_uses_no_later_key_is_that_of_version_0_2_0() -> None:
    """Pinned: a folder of that version is continued. A key that is new goes into `config.LATER`."""
    config = validate(from_values(Path("a"), tomllib.loads(FILE_DATA)), Config)
    assert digest(config, "objective") == "8cbff4e766945faf2147467a8eebfa1e"


def test_digest_changes_with_the_merged_objective() -> None:
    config = validate(from_values(Path("a"), tomllib.loads(FILE_DATA)), Config)
    assert digest(config, {"clip": {"high": 0.2}}) != digest(config, {"clip": {"high": 0.3}})


def _numbers(schema: Mapping[str, Any], definitions: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[Number]:
    """Yield each number of a configuration: the steps to it, and its JSON schema."""
    if "$ref" in schema:
        yield from _numbers(definitions[schema["$ref"].rpartition("/")[2]], definitions, at)
    for branch in schema.get("anyOf", ()):
        yield from _numbers(branch, definitions, at)
    for name, inner in schema.get("properties", {}).items():
        yield from _numbers(inner, definitions, (*at, name))
    for place in ("items", "additionalProperties"):
        if isinstance(inner := schema.get(place), Mapping):
            yield from _numbers(inner, definitions, (*at, place))
    for index, inner in enumerate(schema.get("prefixItems", ())):
        yield from _numbers(inner, definitions, (*at, str(index)))
    if schema.get("type") in ("integer", "number"):
        yield at, schema


SCHEMA = Config.model_json_schema()
NUMBERS = list(_numbers(SCHEMA, SCHEMA["$defs"]))


def test_every_number_has_limits_on_both_sides() -> None:
    assert len(NUMBERS) > 50
    for at, schema in NUMBERS:
        assert {"minimum", "exclusiveMinimum"} & set(schema) and {"maximum", "exclusiveMaximum"} & set(schema), at


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: ".".join(number[0]))
def test_a_number_beyond_its_limits_is_one_error_that_says_what_is_allowed(tmp_path: Path, number: Number) -> None:
    (*steps, last), schema = number
    whole = schema["type"] == "integer"
    beyond = [
        *(2 * schema.get("maximum", schema.get("exclusiveMaximum")) + 1,),
        *(schema.get("minimum", schema.get("exclusiveMinimum")) - 1, 10**18 if whole else 1e300),
    ]
    for value in beyond:
        written: Any = value if whole else float(value)
        if last == "items":
            override = f"{'.'.join(steps)}=[{written}]"
        elif last.isdigit():
            override = f"{'.'.join(steps)}={[0.5, 0.5][: int(last)] + [written] + [0.5] * (1 - int(last))}"
        else:
            override = f"{'.'.join([*steps, last])}={written}"
        if last == "seed" and value == 10**18:
            continue
        with pytest.raises(ConfigError, match="is not allowed") as raised:
            _load(tmp_path, FILE_DATA, override)
        assert re.search("must be (from .+ to |less than|greater than)", raised.value.fix), override


def _changed(values: dict[str, Any], key: str) -> dict[str, Any]:
    table: Any = values
    *path, name = key.split(".")
    for step in path:
        table = table[step]
    old = table[name]
    if key in OTHER_VALUES:
        table[name] = OTHER_VALUES[key]
    elif isinstance(old, bool):
        table[name] = not old
    elif isinstance(old, str):
        table[name] = old + "x"
    else:
        table[name] = old / 2 if isinstance(old, float) and old else old + 1
    return values
