"""The certificate that no result of a method depends on how its batch is divided among ranks and micro-batches."""

import datetime
import subprocess
from pathlib import Path

import pytest

from isentrope.certify import EXCEPTED, Certificate, Wanted, examined, facts, rows
from isentrope.errors import ConfigError
from isentrope.learner.training.certificate import LIMIT, Case

ALL = 0
PAGE = Path(__file__).parents[2] / "docs" / "results" / "certificate.md"


@pytest.mark.slow
def test_no_division_of_a_batch_shows_in_sets_and_gradients() -> None:
    """A selection by covariance, and a mask by a second moment."""
    found = examined(Wanted(("kl_cov", "m2po"), ranks=(1, 2), sizes=(1, 8)))
    assert len(found.cases) == 2 * 2 * 6 and found.different == ()
    assert {case.ranks for case in found.cases} == {1, 2} and all(case.weighed for case in found.cases)
    assert max(case.gradient for case in found.cases) > 0, "other sums are rounded otherwise"


@pytest.mark.slow
def test_no_division_shows_in_the_gradients_of_a_critic_nor_by_greedy_responses_steps_and_teachers() -> None:
    found = examined(Wanted(("ppo", "remax", "bcpg_nsa", "opd"), ranks=(1, 2), sizes=(8,)))
    assert len(found.cases) == 4 * 2 * 3 and found.different == () and found.lacking == {}
    assert all(case.weighed for case in found.cases)


@pytest.mark.slow
def test_a_selection_in_each_micro_batch_is_found() -> None:
    found = examined(Wanted(("kl_cov",), ranks=(1,), sizes=(2, ALL), overrides={"stats": "microbatch"}))
    differ = {case.size for case in found.different}
    assert differ == {2} and all(case.gradient > 100 * LIMIT for case in found.different)


def test_an_unknown_method_is_refused_by_its_nearest() -> None:
    with pytest.raises(ConfigError, match="kl_cov"):
        examined(Wanted(("kl_cow",)))


def test_the_table_says_what_differs_and_the_facts_that_it_does() -> None:
    cases = (
        Case("grpo", 2, 8, "planned", {}, 1e-7, 40),
        Case("grpo", 4, ALL, "shuffled", {"weighed": 3}, 2e-3, 40),
        Case("tis", 1, 1, "planned", {}, 0.0, 40),
    )
    found = Certificate(cases, {"ppo": ("a critic",)})
    told = "4 ranks, all responses per micro-batch, shuffled: 3 tokens of `weighed`, gradient 2.0e-03"
    assert list(rows(found)) == [("grpo", "2", "2.0e-03", told), ("tis", "1", "0.0e+00", "nothing")]
    assert facts(found)["holds"] is False and facts(found)["excepted"] == EXCEPTED


@pytest.mark.parametrize("gradient", [float("nan"), 2 * LIMIT])
def test_a_gradient_that_is_not_a_number_differs(gradient: float) -> None:
    assert Case("grpo", 2, 8, "planned", {}, gradient, 40).differs


@pytest.mark.slow
@pytest.mark.soak
def test_no_preset_depends_on_the_division() -> None:
    """The whole table, which is written."""
    found = examined(Wanted())
    assert found.cases
    PAGE.write_text(page(found), encoding="utf-8")
    assert found.different == ()


def page(found: Certificate) -> str:
    """The table as a page."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=PAGE.parent).strip()
    lines = [
        "# Certificate",
        "",
        "Every preset that can start, trained on one small batch by every division among ranks {1, 2, 4} and",
        "micro-batches of {1, 2, 8, all} responses, packed by the plan, in order and by lot: sets of tokens",
        "that differ from those of the whole batch at once on one rank, and gradients that differ by more than",
        f"{LIMIT:.0e} of their norm, in float32. `isentrope methods certify` prints it.",
        f"{EXCEPTED[0].upper()}{EXCEPTED[1:]}.",
        "",
        "| preset | trainings | gradient by at most | differs |",
        "|---|---|---|---|",
        *(f"| `{name}` | {count} | {gap} | {differs} |" for name, count, gap, differs in rows(found)),
        "",
        *(
            f"`{name}` was not examined: its small batch lacks {' and '.join(needs)}."
            for name, needs in found.lacking.items()
        ),
        "",
        f"{datetime.date.today().isoformat()}, commit {commit}. A soak test writes this page.",
    ]
    return "\n".join(lines) + "\n"
