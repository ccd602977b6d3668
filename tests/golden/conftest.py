"""Prints which golden cases are not compared, and why."""

from collections import Counter

import golden_scope as scope
import pytest
from golden import every_case


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each rule that kept cases out."""
    ran = [r for rs in terminalreporter.stats.values() for r in rs if "test_golden" in getattr(r, "nodeid", "")]
    if not ran:
        return
    counts = Counter(
        (case.family, rule.reason, rule in scope.OUT_OF_SCOPE)
        for case in every_case()
        if (rule := scope.rule_for(case))
    )
    terminalreporter.section("golden cases not compared")
    for (family, reason, outside), count in sorted(counts.items()):
        terminalreporter.write_line(f"{family}: {count} {'out of scope' if outside else 'excluded'}: {reason}")
