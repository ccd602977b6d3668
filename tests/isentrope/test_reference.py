"""What this program knows of methods and names is printed for programs too."""

import json
import sys

import pytest

from isentrope import cli


@pytest.mark.parametrize(
    ("command", "held"),
    [
        (["methods", "--json"], {"name": "dapo", "missing": []}),
        (["methods", "matrix", "--json"], {"first": "grpo", "second": "dapo", "refusals": []}),
        (["help", "--json"], {"name": "learner.batches", "group": "learner"}),
        (["help", "max_lag", "--json"], {"name": "learner.staleness.max_lag"}),
        (["help", "78", "--json"], {"sort": "exit code", "name": "78"}),
    ],
)
def test_facts_are_printed_as_json(
    command: list[str], held: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["isentrope", *command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [each for each in found if held.items() <= each.items()], found[:3]
