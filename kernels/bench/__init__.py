"""Benchmark of the fused kernels against the public ones: `isentrope bench kernels`, or `python -m
isentrope.kernels.bench` where only torch, triton and numpy are installed.

Needs torch and triton, and for the comparison the peers' wheels (`requirements/bench.txt`); a peer that cannot be
loaded is listed with the reason. `--check` compares with the targets in `report.py`. Without a GPU only `--aot` works:
registers, spills and instructions of compiled kernels.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if `--check` finds a target missed."""
    parser = argparse.ArgumentParser(prog="isentrope bench kernels", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="F", help="write the numbers to F, and a chart beside it")
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    parser.add_argument("--quick", action="store_true", help="one small shape, few repetitions")
    parser.add_argument("--aot", action="store_true", help="compile for sm_80 and sm_90 instead of running")
    options = parser.parse_args(arguments)
    from isentrope.kernels.bench.run import BenchOptions, run

    return run(BenchOptions(options.json, options.check, options.quick, options.aot), sys.stdout.write)
