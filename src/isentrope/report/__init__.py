"""The report of a run: `report.html` for reading, `summary.json` for programs.

Reads the run's folder and nothing else, so it can be written again at any time. Loads its libraries when it is used.
"""

from pathlib import Path

REPORT = "report.html"
SUMMARY = "summary.json"


def write(output_dir: Path) -> Path:
    """Write both files into the run's folder from its other files; return the report's path."""
    from isentrope.report.facts import read
    from isentrope.report.page import render
    from isentrope.report.summary import summarise

    facts = read(output_dir)
    summary = summarise(facts)
    _replace(output_dir / SUMMARY, summary.model_dump_json(indent=2) + "\n")
    report = output_dir / REPORT
    _replace(report, render(facts, summary))
    return report


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
