"""`module:function` finds the user's code beside the run file, without getting into anyone's way."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isentrope.errors import RewardError
from isentrope.rollout.rewards.loading import load_function


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What a test imports or adds to the search path is gone after it."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def refusal(name: str, folder: Path) -> RewardError:
    with pytest.raises(RewardError) as caught:
        load_function(name, folder)
    return caught.value


def test_a_module_beside_the_run_file_is_found_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import mine_helper\ndef f(): import mine_late; return mine_helper.X + mine_late.X"
    )
    (tmp_path / "mine_helper.py").write_text("X = 1")
    (tmp_path / "mine_late.py").write_text("X = 2")
    assert load_function("mine:f", tmp_path)() == 3


def test_a_module_of_a_package_is_found(tmp_path: Path) -> None:
    for package in ("with_init", "without_init"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "maths.py").write_text("def f(): return 1")
    (tmp_path / "with_init" / "__init__.py").write_text("")
    assert load_function("with_init.maths:f", tmp_path)() == 1
    assert load_function("without_init.maths:f", tmp_path)() == 1


def test_an_installed_module_is_found(tmp_path: Path) -> None:
    assert load_function("math:sqrt", tmp_path)(9.0) == 3.0


def test_a_file_of_the_run_wins_over_an_installed_module_not_yet_imported(tmp_path: Path) -> None:
    (tmp_path / "this.py").write_text("def f(): return 'mine'")
    sys.modules.pop("this", None)
    assert load_function("this:f", tmp_path)() == "mine"


def test_a_file_with_the_name_of_an_imported_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def f(): return 1")
    error = refusal("json:f", tmp_path)
    assert "json.py beside the run file" in error.what and error.fix == "rename the file"


def test_two_folders_with_the_same_file_do_not_mix(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "twin.py").write_text(f"def f(): return {name!r}")
    assert load_function("twin:f", tmp_path / "one")() == "one"
    assert "another module that is already imported" in refusal("twin:f", tmp_path / "two").what


def test_the_folder_hides_no_installed_module(tmp_path: Path) -> None:
    (tmp_path / "antigravity.py").write_text("raise AssertionError('the wrong file was imported')")
    (tmp_path / "plain.py").write_text("def f(): return 1")
    load_function("plain:f", tmp_path)
    load_function("plain:f", tmp_path)
    assert sys.path.count(str(tmp_path)) == 1 and sys.path[-1] == str(tmp_path)


def test_a_misspelt_function_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "spelt.py").write_text("def my_reward(): pass\nnot_a_function = 3")
    error = refusal("spelt:my_rewrad", tmp_path)
    assert "no function 'my_rewrad'" in error.what and error.fix == "write spelt:my_reward"
    assert "no function 'not_a_function'" in refusal("spelt:not_a_function", tmp_path).what


def test_a_missing_module_says_where_was_looked(tmp_path: Path) -> None:
    error = refusal("nowhere_to_be_found:f", tmp_path)
    assert str(tmp_path) in error.where and "nowhere_to_be_found.py" in error.fix


def test_a_missing_import_of_the_module_is_told_from_a_missing_module(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("import not_installed_anywhere\ndef f(): pass")
    error = refusal("needs:f", tmp_path)
    assert "No module named 'not_installed_anywhere'" in error.what
    assert error.where.startswith(f"{tmp_path / 'needs.py'}:1")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(1)", "SystemExit"),
        ("\0", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(tmp_path: Path, source: str, what: str) -> None:
    (tmp_path / "broken_module.py").write_text(f"\n{source}\n")
    error = refusal("broken_module:f", tmp_path)
    assert what in error.what and "'broken_module'" in error.what
    assert "broken_module" not in sys.modules
    (tmp_path / "broken_module.py").write_text("def f(): return 'mended, and longer'")
    assert load_function("broken_module:f", tmp_path)() == "mended, and longer"
