"""The report is one file that needs nothing else, and says what is missing instead of failing."""

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from isentrope import report
from isentrope.learner import json_files
from isentrope.learner.measures import RaisedAlarm
from isentrope.learner.records import BatchRow, RunRecord, SampleRow, Summary
from isentrope.learner.training.journal import Journal

MakeRun = Callable[..., Path]

CHARTS = 6
MINUS = "\u2212"


def text_of(html: str) -> str:
    """What a reader sees, blanks evened out."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []

        def handle_data(self, data: str) -> None:
            self.parts.append(data)

    reader = Reader()
    reader.feed(re.sub(r"<(style|svg).*?</\1>", "", html, flags=re.DOTALL))
    return " ".join("".join(reader.parts).split())


@pytest.fixture(scope="module")
def page(make_run: MakeRun) -> str:
    return report.write(make_run()).read_text(encoding="utf-8")


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []
    assert "url(" not in re.sub(r"url\(#\w+\)", "", page)
    assert "@import" not in page
    assert len(page) < 200_000


def test_pictures_are_well_formed_and_take_the_pages_colours(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == CHARTS
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert re.findall(r"#[0-9a-f]{6}", re.sub(r'"[^"]*#[pm][0-9a-f]{10}[^"]*"', "", picture)) == []
        assert "<text" in picture
        assert "font-family" not in picture


def test_ids_inside_the_pictures_do_not_collide(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_every_colour_has_a_light_and_a_dark_value(page: str) -> None:
    used = set(re.findall(r"var\((--[a-z]+)\)", page)) - {"--shade"}
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert used <= set(re.findall(r"(--[a-z]+):", light)) == set(re.findall(r"(--[a-z]+):", dark))


def test_page_says_what_happened_and_how_it_ran(page: str) -> None:
    text = text_of(page)
    assert "34.6 % were right before and 50.2 % after" in text
    assert f"R = {MINUS}a·exp(H) + b with a = 0." in text
    assert "With 8 tries, 94.6 % of the prompts were solved before and 75.7 % after." in text
    assert "none was more than 2 batches old" in text
    assert re.search("an answer is right if.*task:digit_walk > 0.5", text)
    assert "2,563 issued = 2,560 trained + 3 retired (3 stale)" in text
    for fact in ("grpo · async · seed 0 · 80 batches", "1 rollout actor, 2 learner ranks", "vllm 1.0", "redis 6.2.14"):
        assert fact in text


def test_a_graded_run_is_told_in_rewards_and_shows_each_function(make_run: MakeRun) -> None:
    folder = make_run()

    def edit(name: str, change: Callable[[dict[str, Any]], None]) -> None:
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for line in lines:
            change(line)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def grade(line: dict[str, Any]) -> None:
        del line["pass_rate"], line["objective"]["groups_all_correct"], line["objective"]["groups_all_wrong"]
        share = line["batch"] / 80
        line["rewards"] = {
            "rewards:form": {"mean": share, "std": 0.25, "missing": 0.0},
            "rewards:hard": {"mean": 0.5, "std": 0.5, "missing": 0.125} if line["batch"] > 10 else {"missing": 1.0},
        }

    record = json_files.read(folder, RunRecord)
    assert record is not None
    json_files.write(folder, record.model_copy(update={"correct": ""}))
    edit("metrics.jsonl", grade)
    edit("eval.jsonl", lambda line: line["pass_at"].clear())
    edit("samples.jsonl", lambda line: line.pop("correct"))
    html = report.write(folder).read_text(encoding="utf-8")
    text = text_of(html)
    assert "The mean reward of answers to problems it never trained on was 0.35 before and 0.50 after." in text
    assert "On 200 held-out prompts, 8 answers each, the mean reward went from 0.35 to 0.50." in text
    assert not re.search(r"\b(right|correct|solved|pass@\w+)\b", text)
    assert "share of right answers" not in html
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>.*?</tr>", html)]
    assert ["rewards:form", "0.069", "0.944", "0.250", "0.0\u202f%"] in rows
    assert ["rewards:hard", "\u2013", "0.500", "0.500", "23.4\u202f%"] in rows
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["pass_at_1_after"], summary["reward_held_out_after"]) == (None, pytest.approx(0.502))


def test_page_states_the_law_of_the_newest_line_with_its_interval(make_run: MakeRun) -> None:
    folder = make_run()
    *_, last = json_files.read_lines(folder, BatchRow)
    law = last.objective.entropy_law
    text = text_of(report.write(folder).read_text(encoding="utf-8"))
    assert law is not None and law.points == 80
    assert f"a = {law.a:.3f} and b = {law.b:.3f}" in text and f"the last 80 batches: R² = {law.r2:.2f}" in text
    assert f"= {law.ceiling:.2f}, with 95 % confidence between {law.ceiling_low:.2f} and {law.ceiling_high:.2f}" in text


def test_what_a_critic_explains_is_told_of_a_run_with_one(make_run: MakeRun, page: str) -> None:
    folder = make_run(batches=2)
    lines = [json.loads(line) for line in (folder / BatchRow.FILE).read_text().splitlines()]
    for line, explained in zip(lines, (0.0, 0.5), strict=True):
        line["objective"]["explained_variance"] = explained
    (folder / BatchRow.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "explains 0.25 of the variance" in text_of(report.write(folder).read_text(encoding="utf-8"))
    assert "critic" not in text_of(page)


def test_page_never_speaks_of_a_ceiling(page: str) -> None:
    """The curve describes one run: where it meets no entropy is no limit of the model."""
    assert "ceiling" not in text_of(page)


def test_tokens_are_shaded_by_entropy(page: str) -> None:
    shades = [(float(nats), int(shade)) for shade, nats in re.findall(r'--shade: (\d+)%" title="([\d.]+) nats"', page)]
    assert max(shade for nats, shade in shades if nats < 0.05) <= 3
    assert all(abs(shade - 100 * min(nats / 1.5, 1)) <= 1 for nats, shade in shades)


def test_what_the_model_writes_is_text_not_markup(make_run: MakeRun) -> None:
    folder = make_run()
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for sample in samples:
        sample["tokens"][0] = "<script>alert(1)</script>"
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    html = report.write(folder).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_long_response_is_cut_and_says_so(make_run: MakeRun) -> None:
    folder = make_run(batches=1)
    samples = Journal(folder, SampleRow)
    samples.rewind(-1)
    for batch in range(2):
        samples.append(
            SampleRow(
                batch=batch, index=0, prompt="p", tokens=("a",) * 8000, entropy=(0.5,) * 8000, reward=1.0, rewards={}
            )
        )
    html = report.write(folder).read_text(encoding="utf-8")
    assert "… 7,600 more tokens" in text_of(html)
    assert html.count('class="token"') == 2 * 400


@pytest.mark.parametrize(
    ("missing", "instead"),
    [
        ("metrics.jsonl", "No batch has been trained yet."),
        ("eval.jsonl", "The model was not evaluated on held-out prompts."),
        ("samples.jsonl", "No prompt was answered both before and after training."),
        ("outcome.json", "The run has not ended, or was killed"),
        ("run.json", "run"),
    ],
)
def test_a_missing_file_gives_a_sentence(make_run: MakeRun, missing: str, instead: str) -> None:
    folder = make_run()
    (folder / missing).unlink()
    assert instead in text_of(report.write(folder).read_text(encoding="utf-8"))


@pytest.mark.parametrize("batches", [1, 9, 10, 29, 30])
def test_a_short_run_is_reported_too(make_run: MakeRun, batches: int) -> None:
    text = text_of(report.write(make_run(batches=batches)).read_text(encoding="utf-8"))
    assert (f"R = {MINUS}a·exp(H) + b" in text) == (batches >= 10)
    assert ("Reward over entropy is shown from 10 batches on." in text) == (batches < 10)


def test_an_empty_folder_is_reported_too(tmp_path: Path) -> None:
    assert "No batch has been trained yet." in text_of(report.write(tmp_path).read_text(encoding="utf-8"))


def test_an_evaluation_that_nothing_answered_is_none(make_run: MakeRun) -> None:
    folder = make_run()
    lines = (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {"prompts": 0, "samples": 0, "pass_at": {}})
    (folder / "eval.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert "held-out prompts, 8 answers each" in text_of(report.write(folder).read_text(encoding="utf-8"))


def test_a_line_cut_off_by_a_crash_is_left_out(make_run: MakeRun) -> None:
    folder = make_run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"batch": 81, "mode": "asy')
    assert "80 batches" in text_of(report.write(folder).read_text(encoding="utf-8"))


NO_RECORDS = (
    b'{"batch": 4, "mode": "async", "reward": "high", "entropy": 1, "tokens": 1}',
    *(b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"batch": 1e999}', b'{"batch": "\xff"}'),
)


def test_lines_that_are_no_records_are_named_and_left_out(make_run: MakeRun) -> None:
    folder, named = make_run(batches=3), list[str]()
    for file in ("metrics.jsonl", "eval.jsonl", "samples.jsonl", "outages.jsonl"):
        lines = (folder / file).read_bytes().splitlines() if (folder / file).exists() else []
        (folder / file).write_bytes(b"".join(each + b"\n" for each in [*lines, *NO_RECORDS]))
        named.append(f"{file}: line {len(lines) + 1} (")
    page = text_of(report.write(folder).read_text(encoding="utf-8"))
    assert all(each in page for each in named) and page.count("and 7 more left out") == 4 and "3 batches" in page


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff"])
def test_files_that_are_no_records_are_named_and_left_out(make_run: MakeRun, text: bytes) -> None:
    folder = make_run(batches=3)
    for file in ("run.json", "outcome.json"):
        (folder / file).write_bytes(text)
    page = text_of(report.write(folder).read_text(encoding="utf-8"))
    assert "run.json is left out: " in page and "outcome.json is left out: " in page


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1e308])
def test_numbers_of_any_kind_leave_a_page(make_run: MakeRun, value: float) -> None:
    folder = make_run(batches=30)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in (rows[7], rows[29]):
        row |= dict.fromkeys(("reward", "entropy", "logp_gap_mean", "clip_low", "lag_mean"), value)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = text_of(report.write(folder).read_text(encoding="utf-8"))
    assert "30 batches" in page and "How fresh is what it learns from?" in page


@pytest.mark.parametrize(("status", "said"), [("stopped", "was stopped before its end"), ("error", "the disk is full")])
def test_a_run_that_did_not_finish_says_so_first(make_run: MakeRun, status: str, said: str) -> None:
    folder = make_run(status=status)
    outcome = json.loads((folder / "outcome.json").read_text())
    (folder / "outcome.json").write_text(json.dumps(outcome | {"what": "the disk is full"}))
    text = text_of(report.write(folder).read_text(encoding="utf-8"))
    assert said in text[: text.index("Does it learn?")]


def test_alarms_are_in_the_box_at_the_top_and_in_the_summary(make_run: MakeRun) -> None:
    folder = make_run(batches=12)
    journal, rows = Journal(folder, BatchRow), list(json_files.read_lines(folder, BatchRow))
    assert "Alarm" not in text_of(report.write(folder).read_text(encoding="utf-8"))
    journal.rewind(-1)
    for row in rows:
        value = {9: 120.0, 11: 1476.0}.get(row.batch)
        raised = None if value is None else {"ratio_max": RaisedAlarm(value=value, bound=100.0)}
        journal.append(row.model_copy(update={"alarms": raised}))
    page = report.write(folder).read_text(encoding="utf-8")
    box = text_of(page.split('class="trouble"')[1].split("</div>")[0])
    assert "Alarm in 2 batches, first in batch 9: at worst the largest ratio is 1.48e+03" in box
    summary = json_files.read(folder, Summary)
    assert summary is not None and summary.alarms.keys() == {"ratio_max"}
    figures = summary.alarms["ratio_max"]
    assert (figures.first, figures.last, figures.batches, figures.worst) == (9, 11, 2, 1476.0)


def test_writing_again_gives_the_same_bytes(make_run: MakeRun) -> None:
    folder = make_run()
    first = report.write(folder).read_bytes()
    assert report.write(folder).read_bytes() == first


def test_settings_are_folded_away_and_shown_as_they_are(make_run: MakeRun) -> None:
    folder = make_run(batches=2)
    (folder / "run.toml").write_text('[data]\nsystem_prompt = "<b>Think.</b>"  # run.toml:9\n')
    page = report.write(folder).read_text(encoding="utf-8")
    assert "<details>\n<summary>settings: <code>run.toml</code></summary>" in page
    assert 'system_prompt = "<b>Think.</b>"  # run.toml:9' in unescape(page) and "<b>Think." not in page
