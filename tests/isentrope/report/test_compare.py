"""Runs beside each other: what is compared with what, the page, and the facts as JSON."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from isentrope.compare import compare_runs
from isentrope.comparison.arms import compare, read_arms
from isentrope.errors import ConfigError
from isentrope.learner import json_files
from isentrope.learner.records import EvalRow, RunRecord
from isentrope.learner.training.journal import Journal

MakeRun = Callable[..., Path]
PROMPTS = 60


@pytest.fixture(scope="module")
def folders(make_run: MakeRun) -> list[Path]:
    """Two seeds each of two methods, one of which answers more prompts."""
    return [a_run(make_run, method, seed) for method in ("grpo", "dapo") for seed in (0, 1)]


def a_run(make_run: MakeRun, method: str, seed: int) -> Path:
    folder = make_run(batches=20)
    record = json_files.read(folder, RunRecord)
    assert record is not None
    json_files.write(folder, record.model_copy(update={"method": method, "seed": seed}))
    rows = list(json_files.read_lines(folder, EvalRow))
    rng = np.random.default_rng(seed)
    level = 0.2 + 0.5 * (method == "dapo")
    shares = {prompt: float(rng.binomial(8, level)) / 8 for prompt in range(PROMPTS)}
    (folder / EvalRow.FILE).unlink()
    journal = Journal(folder, EvalRow)
    for row in rows:
        journal.append(row.model_copy(update={"by_prompt": shares}))
    return folder


def compared(folders: list[Path], page: Path, *, as_json: bool) -> str:
    told = io.StringIO()
    assert compare_runs(folders, page, as_json, Console(file=told, width=200)) == 0
    return told.getvalue()


def test_methods_are_told_apart_and_seeds_belong_together(folders: list[Path], tmp_path: Path) -> None:
    found = json.loads(compared(folders, tmp_path / "page.html", as_json=True))
    assert [(method["name"], method["seeds"]) for method in found["methods"]] == [("grpo", [0, 1]), ("dapo", [0, 1])]
    (pair,) = found["pairs"]
    assert pair["verdict"] in ("worse", "not distinguishable") and pair["same_seeds"]
    assert pair["low"] < pair["difference"] < pair["high"] and pair["difference"] == pytest.approx(-0.5, abs=0.1)


def test_the_page_stands_alone_and_says_the_verdict(folders: list[Path], tmp_path: Path) -> None:
    told = compared(folders, tmp_path / "page.html", as_json=False)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        ElementTree.fromstring(picture)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert re.search(r"<b class=\"worse\">|<span>not distinguishable</span>", page) and "dapo" in told
    assert "<td data-label=" in page and "<td>" not in page  # where a table is narrow, each cell has its label


def test_one_seed_is_said(folders: list[Path]) -> None:
    found = compare(read_arms([folders[0], folders[2]]))
    assert "One seed of grpo, dapo" in found.notes[0] and found.pairs[0].difference is not None
    assert found.pairs[0].difference.verdict == "worse"


def test_runs_without_outcomes_by_prompt_are_shown_and_not_judged(make_run: MakeRun, folders: list[Path]) -> None:
    found = compare(read_arms([make_run(batches=20), folders[2]]))
    assert found.pairs[0].difference is None and "outcomes by prompt" in found.pairs[0].why_not


def test_runs_of_one_method_and_equal_seeds_are_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one method"):
        compare_runs(folders[:2], tmp_path / "page.html", False, Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match="same seed"):
        read_arms([folders[0], folders[0]])
