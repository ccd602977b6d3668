"""Whatever is wrong with a run file is told with line, key, what was given, what is allowed and what was meant."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.config import STAND_INS, Config
from isentrope.errors import ConfigError
from isentrope.runfile import MAX_BYTES, RunFile, known_keys, read, salvage, validate

SMALLEST = '[run]\nname = "a"\n[model]\npath = "m"\n[data]\ntrain = "task:digit_walk"\n'

KNOWN = list(known_keys(Config))
TABLES = {key.rpartition(".")[0] for key in KNOWN}
LEAVES = [key for key in KNOWN if key not in TABLES]


def _file(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _errors(path: Path, *overrides: str) -> list[ConfigError]:
    try:
        validate(read(path, overrides), Config)
    except ConfigError as error:
        return [error]
    except ExceptionGroup as group:
        return [error for error in group.exceptions if isinstance(error, ConfigError)]
    return []


def test_smallest_file_is_accepted(tmp_path: Path) -> None:
    assert _errors(_file(tmp_path, SMALLEST)) == []


@pytest.mark.parametrize("text", ["\ufeff" + SMALLEST, SMALLEST.replace('"m"', '"m"  # \x85 \u2028')])
def test_marks_that_some_editors_write_move_no_key(tmp_path: Path, text: str) -> None:
    file = read(_file(tmp_path, text))
    assert file.values["run"] == {"name": "a"} and file.where("data.train") == "run.toml:6: data.train"


@st.composite
def _misspelt(draw: st.DrawFn) -> tuple[str, str]:
    """A known key and the same with one slip in its name."""
    key = draw(st.sampled_from([key for key in LEAVES if len(key.rpartition(".")[2]) > 5]))
    table, _, name = key.rpartition(".")
    at = draw(st.integers(1, len(name) - 2))
    slip = draw(st.sampled_from([name[:at] + name[at + 1 :], name[:at] + name[at] + name[at:], f"{name}s", name + "_"]))
    return key, f"{table}.{slip}"


@given(misspelt=_misspelt(), blank=st.integers(0, 5))
def test_misspelt_key_is_told_with_its_line_and_the_right_spelling(
    tmp_path_factory: pytest.TempPathFactory, misspelt: tuple[str, str], blank: int
) -> None:
    key, slip = misspelt
    path = _file(tmp_path_factory.mktemp("run"), "\n" * blank + f"{slip} = 1\n" + _without(SMALLEST, slip))
    found = [error for error in _errors(path) if error.what == f"unknown key {slip}"]
    assert [error.where for error in found] == [f"run.toml:{blank + 1}: {slip}"]
    assert found[0].fix == f"did you mean {key}?"


def _without(text: str, key: str) -> str:
    """The text without the table that a dotted key at its top has opened already."""
    table = key.partition(".")[0]
    lines = text.splitlines(keepends=True)
    if f"[{table}]\n" not in lines:
        return text
    at = lines.index(f"[{table}]\n")
    return "".join(lines[:at] + lines[at + 2 :])


_NAME = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
_VALUE = st.sampled_from(
    ["1", '"x"', "[1,\n 2]", '"""\nkey = 1\n[table]\n"""', "{ a = 1, b = { c = 2 } }", "true # = 1"]
)


@given(tables=st.dictionaries(_NAME, st.dictionaries(_NAME, _VALUE, max_size=4), max_size=4), gap=st.integers(0, 2))
def test_every_key_is_found_on_its_line(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, dict[str, str]], gap: int
) -> None:
    text, expected = "", {}
    for table, keys in tables.items():
        text += "# a comment = 1\n" * gap
        expected[table] = text.count("\n") + 1
        text += f"[{table}]\n"
        for key, value in keys.items():
            expected[f"{table}.{key}"] = text.count("\n") + 1
            text += f"{key} = {value}\n" + "\n" * gap
    lines = read(_file(tmp_path_factory.mktemp("run"), text)).lines
    assert {key: lines[key] for key in expected} == {key: f"run.toml:{line}" for key, line in expected.items()}


@pytest.mark.parametrize(
    ("change", "where", "what", "fix"),
    [
        ("learner.batches=0", "learner.batches", "= 0 is", "must be from 1 to 1048575 batches"),
        ("learner.batches=1.5", "learner.batches", "= 1.5 is", "must be a whole number"),
        ("learner.batches=ten", "learner.batches", '= "ten" is', "must be a whole number"),
        ("learner.batches=true", "learner.batches", "= true is", "must be a whole number"),
        ("learner.learning_rate=inf", "learner.learning_rate", "= Infinity is", "must be a finite number"),
        ("learner.mode=asink", "learner.mode", '= "asink" is', "must be 'async' or 'on_policy'"),
        ("learner.method=3", "learner.method", "= 3 is", "must be text or a list"),
        ('learner.method=["grpo", 3]', "learner.method", "[1] = 3 is", "must be text"),
        ("learner.adam_betas=[0.9]", "learner.adam_betas", "= [0.9] is", "must be a longer list"),
        ("learner.staleness.max_lag=-1", "learner.staleness.max_lag", "= -1 is", "from 0 to 1048575 batches"),
        ("run.name=Upper", "run.name", '= "Upper" is', "must be lower-case letters, digits and hyphens"),
        ("redis.passwords=pw", "redis.passwords", '= "pw" is', "must be an absolute path, or one that begins with ~"),
        ("actors=3", "actors", "= 3 is", "must be a table"),
        ("learner.tensorboard=yes", "learner.tensorboard", '= "yes" is', "must be true or false"),
        ("group_size=3", "group_size", "unknown key", "did you mean sampling.group_size?"),
        ("lerner.batches=3", "lerner", "unknown key", "did you mean learner?"),
        ("run.zzz=3", "run.zzz", "unknown key", "known keys of [run]: name, seed, output_dir"),
        ("learner.lr=1", "learner.lr", "unknown key", "it is called learner.learning_rate here"),
        ("sampling.num_generations=8", "sampling.num_generations", "unknown key", "sampling.group_size"),
        ("learner.beta=0.1", "learner.beta", "unknown key", "[[learner.objective.kl]]"),
        ("learner.lora_rank=8", "learner.lora_rank", "unknown key", "LoRA is not supported"),
        ("redis.url=redis://x", "redis.url", "unknown key", "export ISENTROPE_REDIS_URL="),
        ("redis_url=redis://x", "redis_url", "unknown key", "export ISENTROPE_REDIS_URL="),
        ("redis.host=x", "redis.host", "unknown key", "export ISENTROPE_REDIS_URL="),
        ("learner.num_train_epochs=2", "learner.num_train_epochs", "unknown key", "epochs * prompts / learner.prompts"),
        ("trainer.logger=wandb", "trainer", "unknown key", "[learner]"),
        ("learner.adam_betas=[0.9, 1.5]", "learner.adam_betas", "= 1.5 is", "must be less than 1"),
        ("sampling.group_size=1100", "sampling.group_size", "= 1100 is", "from 1 to 1024 responses"),
        ("sampling.temperature=0.005", "sampling.temperature", "= 0.005 is", "from 0.01 to 100"),
        ("learner.stall_timeout_s=1e300", "learner.stall_timeout_s", "= 1e+300 is", "from 0.1 to 30000000 seconds"),
    ],
)
def test_wrong_value_is_told_with_what_is_allowed(tmp_path: Path, change: str, where: str, what: str, fix: str) -> None:
    errors = _errors(_file(tmp_path, SMALLEST), change)
    assert [error.where for error in errors] == [f"command line: {where}"]
    assert what in errors[0].what and fix in errors[0].fix
    assert errors[0].exit_code == 64


@pytest.mark.parametrize("key", ["redis", "redis.url_env"])
def test_a_url_in_the_file_is_refused_and_its_password_not_shown(tmp_path: Path, key: str) -> None:
    (error,) = _errors(_file(tmp_path, SMALLEST), f"{key}=redis://:hunter2@broker:6379")
    assert error.where == f"command line: {key}" and "export ISENTROPE_REDIS_URL=" in error.fix
    assert "hunter2" not in str(error)


def test_missing_keys_and_tables_are_named(tmp_path: Path) -> None:
    errors = _errors(_file(tmp_path, "[run]\nseed = 1\n[data]\n"))
    assert {error.what for error in errors} == {
        "key run.name is missing",
        "table [model] is missing",
        "key data.train is missing",
    }
    assert {error.where for error in errors} == {
        "run.toml:1: run.name",
        "run.toml: model",
        "run.toml:3: data.train",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[run\n", 1),
        ('[run]\nname = "a\n', 2),
        ("[run]\nname = 1\n\nname = 2\n", 4),
        ("[run]\n[data]\n[run]\n", 3),
    ],
)
def test_broken_toml_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    (error,) = _errors(_file(tmp_path, text))
    assert error.where == f"run.toml:{line}" and error.what.startswith("not valid TOML: ")


def _unreadable(folder: Path) -> Iterator[Path]:
    yield folder / "none.toml"
    yield folder
    latin = folder / "latin.toml"
    latin.write_bytes(b'[run]\nname = "\xe4"\n')
    yield latin


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in _unreadable(tmp_path):
        (error,) = _errors(path)
        assert str(path) in error.what


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b=3", 3),
        ("a.b=3.5", 3.5),
        ("a.b=x", "x"),
        ("a.b=[1, 2]", [1, 2]),
        ('a.b="3"', "3"),
        ("a.b=", ""),
        ("a.b=x=y", "x=y"),
    ],
)
def test_override_is_a_toml_value_or_else_text(tmp_path: Path, override: str, value: object) -> None:
    file = read(_file(tmp_path, "[a]\nb = 1\nc = 2\n"), [override])
    assert file.values == {"a": {"b": value, "c": 2}}
    assert file.where("a.b") == "command line: a.b" and file.where("a.c") == "run.toml:3: a.c"


@pytest.mark.parametrize("override", ["a", "=3", "a..b=3", "c.b.a=3"])
def test_override_that_is_no_key_and_value_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=override):
        read(_file(tmp_path, "c.b = 1\n"), [override])


def test_place_of_an_unset_key_is_that_of_the_table_around_it() -> None:
    file = RunFile(Path("/x/run.toml"), {}, {"learner": "run.toml:7"})
    assert file.where("learner.staleness.max_lag") == "run.toml:7: learner.staleness.max_lag"
    assert file.where("run.name") == "run.toml: run.name"


def test_the_list_of_known_keys_is_shown_once(tmp_path: Path) -> None:
    text = SMALLEST + "[redis]\nqqqq = 1\nzzzz = 1\n[weights]\nqqqq = 1\n"
    fixes = [error.fix for error in _errors(_file(tmp_path, text))]
    assert [fix.partition(":")[0] for fix in fixes] == [
        "known keys of [redis]",
        "see the known keys above",
        "known keys of [weights]",
    ]


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("path = model-qwen2", 'text needs quotes: "model-qwen2"'),
        ("path = ./models/qwen2  # mine", 'text needs quotes: "./models/qwen2"'),
        ("learner.tensorboard = True", "write true in lower case"),
        ("model.max_model_len = None", "leave the key out"),
        ("path = [1, 2", "see https://toml.io"),
        ('path = "m', "see https://toml.io"),
    ],
)
def test_a_value_without_quotes_is_told_from_other_mistakes(tmp_path: Path, line: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(_file(tmp_path, f'[run]\nname = "a"\n{line}\n'))
    assert caught.value.fix == fix


@given(slips=st.lists(st.sampled_from(KNOWN), min_size=1, max_size=3))
def test_what_is_right_is_kept_when_keys_are_wrong(tmp_path_factory: pytest.TempPathFactory, slips: list[str]) -> None:
    """Whichever keys have a value of a wrong type, the others keep theirs."""
    file = read(_file(tmp_path_factory.mktemp("run"), SMALLEST + "[learner]\nbatches = 7\n"))
    for key in slips:
        _set(file.values, key)
    config, errors, wrong = salvage(file, Config, STAND_INS)
    assert errors and all(any(key == slip or slip.startswith(f"{key}.") for slip in slips) for key in wrong)
    assert config.learner.batches == (100 if {"learner", "learner.batches"} & wrong else 7)


def _set(values: dict[str, object], key: str) -> None:
    """Give a key a value that none may have."""
    *tables, name = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            return  # the whole table is wrong already
        values = inner
    values[name] = [[[None]]]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nests its values too deeply"),
        ("# " + "x" * MAX_BYTES, "is larger than"),
    ],
)
def test_a_bomb_is_one_error(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=what):
        read(file)


def test_an_override_that_is_a_bomb_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError, match="nested too deeply"):
        read(tmp_path / "run.toml", ["x=" + "[" * 5000 + "]" * 5000])


def test_places_are_found_by_reading_each_line_of_a_long_list_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.toml").write_text(
        "[a]\nx = [\n" + '"y",\n' * 5000 + "]\nz = 1\n" + 'w = """\n' + "text\n" * 5000 + '"""\n'
    )
    sizes: list[int] = []
    loads = tomllib.loads

    def counted(text: str) -> dict[str, object]:
        sizes.append(len(text))
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    file = read(tmp_path / "run.toml")
    assert (file.where("a.x"), file.where("a.z")) == ("run.toml:2: a.x", "run.toml:5004: a.z")
    assert len(sizes) < 300
