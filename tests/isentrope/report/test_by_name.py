"""Data sets and sets of held-out prompts are told apart where there are several."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from run_records import MEASURES, make_row

from isentrope.learner.measures import Measures
from isentrope.learner.records import BatchRow
from isentrope.report.by_name import held_out_rows, source_rows
from isentrope.report.contents import read_contents

MakeRun = Callable[..., Path]


def test_each_of_several_data_sets_has_its_figures() -> None:
    def row(batch: int, share: float) -> BatchRow:
        tables = {
            "entropy_by_source": {"math": share, "logic": 1.0},
            "reward_by_source": {"math": 0.5, "logic": share},
            "pass_rate_by_source": {"math": 0.5, "logic": share},
        }
        return make_row(batch=batch, objective=Measures.model_validate(dict(MEASURES) | tables))

    rows = [row(batch, batch / 40) for batch in range(1, 41)]
    found = dict(source_rows(rows))
    right = "50.0\u202f% \u2192 50.0\u202f%"
    assert found["data set math"] == f"entropy 0.14 \u2192 0.89, reward 0.50 \u2192 0.50, right {right}"
    assert list(found) == ["data set logic", "data set math"]
    assert list(source_rows([make_row(batch=1)])) == [], "one data set is the run"


def test_each_of_several_held_out_sets_has_its_figures_and_pictures_are_of_the_first(make_run: MakeRun) -> None:
    contents = read_contents(make_run())
    assert list(held_out_rows(contents)) == []
    named = [row.model_copy(update={"name": "aime"}) for row in contents.evaluations]
    pairs = zip(named, contents.evaluations, strict=True)
    both = replace(contents, evaluations=tuple(each for pair in pairs for each in pair))
    told = "200 prompts, 8 answers each; pass@1 0.346 before, 0.502 after; pass@8 0.946 before, 0.757 after"
    assert dict(held_out_rows(both)) == {"held-out aime": told, "held-out heldout": told}
    assert both.before == named[0] and both.after == named[-1]
