"""The run files pass the check, with a stub of their model and a few rows; the README says what they need."""

import sys
from pathlib import Path

import pytest
from deploy_files import DEPLOY
from stub_models import RUNS, write_stub

from isentrope import cli
from isentrope.capacity.figures import Figures
from isentrope.capacity.request import Request, answer


@pytest.fixture(scope="module", params=RUNS, ids=lambda path: path.stem)
def stub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A run file, its copy beside stubs, and the keys that name those."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    arguments = write_stub(request.param, folder)
    return request.param, folder / "run.toml", arguments


def test_a_run_file_passes_the_check(
    stub: tuple[Path, Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, copied, arguments = stub
    monkeypatch.setattr(sys, "argv", ["isentrope", "check", str(copied), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err


def capacity_row(path: Path, told: Figures) -> str:
    """Return the row of the README's table about a run file."""
    cells = (
        f"`{path.name}`",
        f"{told.prompt_tokens:,} + {told.response_tokens:,}",
        amount(told.group_bytes),
        f"{amount(told.broker_bytes)} of {amount(told.budget_bytes)}",
        f"{told.checkpoint_batches}",
        amount(told.rank_bytes),
        f"{amount(told.rank_host_bytes)}, {amount(told.rank_0_bytes)}",
        amount(told.weights_bytes),
    )
    return f"| {' | '.join(cells)} |"


def amount(count: int) -> str:
    """Return bytes in the unit that leaves a number between 1 and 1,000."""
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"


def test_the_table_of_capacity_is_what_the_plan_says(stub: tuple[Path, Path, list[str]]) -> None:
    path, copied, arguments = stub
    told = answer(Request(copied, arguments, "80GB", "1GB/s", "1GB/s", None, None, None))
    row = capacity_row(path, told)
    assert told.fits_gpu and told.broker_bytes < told.budget_bytes
    assert row in (DEPLOY / "README.md").read_text().splitlines(), row
