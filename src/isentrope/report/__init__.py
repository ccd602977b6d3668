"""The report of a run: `report.html` for reading, `summary.json` for programs.

Reads the run's folder and nothing else, so it can be written again at any time. Loads its libraries when it is used.
"""

from pathlib import Path

REPORT = "report.html"


def write(output_dir: Path) -> Path:
    """Write both files into the run's folder from its other files; return the report's path."""
    from isentrope.learner import json_files
    from isentrope.report.contents import read_contents
    from isentrope.report.page import render
    from isentrope.report.summary import summarise
    from isentrope.rollout.wire.files import write_whole

    contents = read_contents(output_dir)
    summary = summarise(contents)
    json_files.write(output_dir, summary)
    report = output_dir / REPORT
    json_files.make_room(report)
    write_whole(report, render(contents, summary), durable=False)
    return report
