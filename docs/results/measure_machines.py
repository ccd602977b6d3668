"""Measure how soon a run goes on after the loss of a machine, of the command, of a cable or of the depot, and how soon
actors serve that join or are asked for.

    python docs/results/measure_machines.py    # as root; 20 minutes on two quiet cores

Runs the tests of several machines, which assert no times, and writes those that they saw to `machines.json` beside this
file, after each test. Started again at the same commit it goes on where it was.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from measure import ROOT, begun

from isentrope.rollout.wire.files import write_whole

DATA = Path(__file__).with_name("machines.json")

TESTS = (
    "test_lost_machines.py",
    "test_cut_cable.py",
    "test_ranks_apart.py",
    "test_nothing_shared.py",
    "test_scale.py",
    "test_poisoned_node.py",
    "test_passing_on.py",
)


def main() -> None:
    """Run the tests, and write what they saw."""
    record = begun(DATA)
    done = {run["test"] for run in record["runs"]}
    for test in [test for test in TESTS if test not in done]:
        with tempfile.TemporaryDirectory() as folder:
            seen = Path(folder, "seen.xml")
            path = ROOT / "tests" / "system" / test
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-m", "", str(path), f"--junitxml={seen}"], cwd=ROOT, check=True
            )
            found = {each.get("name"): each.get("value") for each in ElementTree.parse(seen).iter("property")}
        record["runs"].append(
            {"test": test} | {str(name): round(float(value or 0), 2) for name, value in found.items()}
        )
        write_whole(DATA, json.dumps(record, indent=1) + "\n", durable=False)


if __name__ == "__main__":
    main()
