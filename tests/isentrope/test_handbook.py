"""Everything that can be configured, measured or met as an exit code has an entry, and a name that resembles it finds
it."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from rich.console import Console

from isentrope import errors
from isentrope.config import Config
from isentrope.errors import ConfigError, IsentropeError
from isentrope.handbook import pages
from isentrope.handbook.catalogue import catalogue, find
from isentrope.handbook.entry import HelpEntry, Sort
from isentrope.handbook.keys import tables
from isentrope.handbook.light import light_module
from isentrope.handbook.outputs import files
from isentrope.handbook.show import show, show_names
from isentrope.handbook.stages import DIMENSIONS
from isentrope.learner.objective import dimensions
from isentrope.learner.objective.schema import Kind
from isentrope.learner.records import FileRecord

DOCS = Path(__file__).parents[2] / "docs"

NAMES = sorted({entry.name for entry in catalogue()})


def test_every_entry_says_what_it_is() -> None:
    assert [(entry.group, entry.name) for entry in catalogue() if not entry.text.strip()] == []
    assert [name for name, text in (tables() | files()).items() if not text] == []


@pytest.mark.parametrize(
    "name", [*(key for key in dict(tables())), *(kind.FILE for kind in FileRecord.__subclasses__())]
)
def test_heading_finds_all_that_stands_under_it(name: str) -> None:
    assert [entry for entry in find(name) if entry.group == name]


def test_every_key_of_the_configuration_is_found() -> None:
    keys = dict(_leaves(Config))
    assert len(keys) > 60
    assert [key for key in keys if find(key)[0].name != key] == []


def test_every_key_of_every_output_is_found() -> None:
    for kind in FileRecord.__subclasses__():
        found = {entry.name.partition(".")[0] for entry in find(kind.FILE)}
        assert kind.model_fields.keys() <= found, kind.FILE


def test_every_exit_code_is_found() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, IsentropeError)]
    for kind in kinds:
        (entry,) = (entry for entry in find(str(kind.exit_code)) if entry.sort is Sort.EXIT_CODE)
        assert kind is IsentropeError or kind.__name__ in entry.text


@pytest.mark.parametrize("name", NAMES)
def test_every_name_finds_its_entry_first_or_behind_a_key_of_that_name(name: str) -> None:
    first = next(entry for entry in find(name) if not (entry.sort is Sort.KEY and entry.name.endswith(f".{name}")))
    assert first.name == name


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("max_lag", "learner.staleness.max_lag"),
        ("learner.objective.clip.ppo.high", "clip.ppo.high"),
        ("learner.objective.clip.dual", "clip.ppo.dual"),
        ("staleness.min_kept", "learner.staleness.min_kept"),
        ("sampling/group_size", "sampling.group_size"),
        ("band_cov", "tokens.band_cov"),
        ("learner.objective.clip.kind", "clip.ppo"),
        ("exit_codes", "78"),
    ],
)
def test_part_of_a_name_is_enough(asked: str, name: str) -> None:
    assert name in [entry.name for entry in find(asked)]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("max_lga", "max_lag"),
        ("clpi", "clip"),
        ("learner.batchs", "learner.batches"),
        ("lerner.learning_rate", "learner.learning_rate"),
        ("KL_COVV", "kl_cov"),
        ("exit_cod", "exit_code"),
        ("entropy_chnage", "entropy_change"),
    ],
)
def test_misspelt_name_is_told_the_right_one(asked: str, name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(asked)
    assert raised.value.fix == f"did you mean `{name}`?"


@given(st.sampled_from([name for name in NAMES if len(name) > 8]), st.data())
def test_name_that_lacks_a_letter_is_told_one_that_can_be_found(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    try:
        find(name[:place] + name[place + 1 :])
    except ConfigError as error:
        (offered,) = re.findall(r"`([^`]+)`\?", error.fix)
        assert find(offered)


def test_nothing_like_it_points_to_the_list() -> None:
    with pytest.raises(ConfigError, match="isentrope help"):
        find("zzzzzz")


def test_entries_load_nothing_heavy() -> None:
    code = (
        "import sys; from isentrope.handbook.catalogue import catalogue; catalogue();"
        "print(sorted({'torch', 'redis', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_stages_read_without_torch_are_the_stages() -> None:
    light = light_module(DIMENSIONS)
    assert light["CHOICES"] == dimensions.CHOICES
    assert _described(light["KL_TOKENS"]) == _described(dimensions.KL_TOKENS)
    assert light["DIMENSIONS"].keys() == dimensions.DIMENSIONS.keys()
    for path, real in dimensions.DIMENSIONS.items():
        found = light["DIMENSIONS"][path]
        assert (found.form, found.default) == (real.form, real.default)
        assert _described(found.kinds) == _described(real.kinds)
        assert real.keys is None or found.keys.model_json_schema() == real.keys.model_json_schema()


@pytest.mark.parametrize("name", ["configuration", "metrics"])
def test_page_is_what_make_docs_writes(name: str) -> None:
    written = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert written == getattr(pages, name)(), "run `make docs`"


def test_page_of_the_configuration_holds_every_key_and_stage() -> None:
    page = pages.configuration()
    entries = [entry for entry in catalogue() if entry.sort in (Sort.KEY, Sort.STAGE)]
    assert [entry.name for entry in entries if not _stands_on(page, entry)] == []


def test_entry_shows_bounds_default_and_meaning() -> None:
    shown = _shown("learner.learning_rate")
    assert "number ≥ 1e-12, ≤ 1; default 1e-06" in shown and "Too high" in shown


def test_stage_shows_how_it_is_set_and_its_keys() -> None:
    shown = _shown("tokens.band_cov")
    assert 'learner.objective.tokens = [{ kind = "band_cov" }]' in shown
    assert "share  number > 0, ≤ 1; default 0.0002" in shown


def test_key_of_a_stage_shows_a_line_that_sets_it() -> None:
    assert 'learner.objective.clip = { kind = "ppo", high = … }' in _shown("clip.ppo.high")
    assert 'learner.objective.kl = [{ …, tokens = { kind = "top_cov", share = … } }]' in _shown(
        "kl.tokens.top_cov.share"
    )


def test_key_of_the_run_file_comes_whole_and_before_outputs_of_its_name() -> None:
    lines = _shown("mode").splitlines()
    assert lines[0].startswith("learner.mode  key of the run file") and "isentrope mode" in "".join(lines[2:4])


def test_many_entries_are_one_line_each() -> None:
    lines = _shown("low").splitlines()
    assert len(lines) == len(find("low")) and lines[0].startswith("advantage.baseline.entropy_range.low")


def test_list_names_everything_but_the_keys_of_stages() -> None:
    console = Console(width=1000)
    with console.capture() as captured:
        show_names(console)
    shown = captured.get()
    of_stages = {key for entry in catalogue() for key in entry.keys}
    names = [entry.name.removeprefix(f"{entry.group}.") for entry in catalogue() if entry not in of_stages]
    assert [name for name in names if name not in shown] == []


def _shown(name: str) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        show(name, console)
    return captured.get()


def _stands_on(page: str, entry: HelpEntry) -> bool:
    last = entry.name.removeprefix(f"{entry.group}.")
    return f"`{last}`" in page or f"# {entry.name}\n" in page


def _leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        below = field.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from _leaves(below, f"{path}{name}.")
        else:
            yield f"{path}{name}", below


def _described(kinds: Mapping[str, Kind]) -> dict[str, object]:
    return {
        name: (kind.reads, kind.may_read, kind.keys.model_json_schema(), kind.function.__doc__)
        for name, kind in kinds.items()
    }
