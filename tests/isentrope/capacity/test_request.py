"""The command `plan`, from the arguments to what it prints."""

import json
import sys
from pathlib import Path

import pytest
from run_records import make_row

from isentrope import cli
from isentrope.capacity.request import size
from isentrope.errors import ConfigError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["isentrope", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("text", "count"), [("80GB", 80 * 10**9), ("1GB/s", 10**9), ("1.5 GiB/s", 3 << 29), ("100", 100)]
)
def test_sizes_and_speeds_have_units(text: str, count: int) -> None:
    assert size(text, "--disk") == count


@pytest.mark.parametrize("text", ["", "fast", "-1GB", "0", "1GB/h"])
def test_what_is_not_a_size_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size") as refused:
        size(text, "--disk")
    assert refused.value.where == "--disk"


def test_it_plans_by_the_run_file_and_by_a_measured_run(
    monkeypatch: pytest.MonkeyPatch, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, run_file, "sampling.max_new_tokens=100", "--gpus=80GB", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["response_tokens"] == 100 and told["fits_gpu"] is True and told["actors"] is None
    before = run_file.parent / "runs" / "before"
    before.mkdir(parents=True)
    (before / "run.json").write_text("{}")
    rows = [make_row(n, trained=32 * n, retired=0) for n in (1, 2)]
    (before / "metrics.jsonl").write_text("".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows))
    assert run(monkeypatch, run_file, f"--measured={before}", "--tokens-per-second=1", "--json") == 0
    by_run = json.loads(capsys.readouterr().out)
    assert by_run["response_tokens"] == 7 and by_run["group_bytes"] < told["group_bytes"]
    assert by_run["actors"] == pytest.approx(7 * 256 / 1.5, abs=1)


def test_mistakes_in_the_run_file_are_told_and_those_of_the_machine_are_not(
    monkeypatch: pytest.MonkeyPatch, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_file.parent / "taken").touch()
    assert run(monkeypatch, run_file, "run.output_dir=taken") == 0
    assert "a group " in capsys.readouterr().out
    assert run(monkeypatch, run_file, "learner.batches=three") == 64
    assert run(monkeypatch, run_file, "--disk=fast") == 64
    assert "'fast' is not a size" in capsys.readouterr().err
