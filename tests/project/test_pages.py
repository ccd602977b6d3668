"""What README, CONTRIBUTING, the pages of `docs` and the folders' READMEs say: links lead somewhere, files exist, and
what they tell people to type works."""

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_files import FOLDERS, ROOT

from isentrope import cli
from isentrope.peer_names import HERE as HERE_IS

_FOLDERS = ("deploy", "docs", "examples", "src/isentrope", "tests", *FOLDERS)

PAGES = sorted(
    {path.resolve() for path in ROOT.glob("*.md")}
    | {path.resolve() for folder in _FOLDERS for path in (ROOT / folder).rglob("*.md")}
)
"""Each once: the links of `src/isentrope` lead to the four folders."""

ELSEWHERE = {
    *(
        "manifest.json",
        "metrics.jsonl",
        "notices.jsonl",
        "eval.jsonl",
        "samples.jsonl",
        "outcome.json",
        "placement.json",
        "begun_from.json",
        "scale.jsonl",
        "outages.jsonl",
        "run.json",
        "step.json",
        "state.json",
    ),
    *("comparison.html", "comparison.json", "comparison-plan.json", "mine.toml"),
    *("summary.json", "report.html", "learner-0.log", "objective.toml"),
    *("rewards.py", "run.toml", "train.jsonl"),
    "transports/rollouts/types.py",
    *("x.py", "test_x.py"),
}
"""Files that are named and not in the checkout: what a run writes, what a user has, what is another project's."""

TABLED = ("actors", "kernels", "learner", "learner/intake", "learner/objective", "rollout")
"""Folders whose README has a table of modules."""

HERE = {
    "isentrope --help",
    "isentrope help",
    "isentrope help KEY",
    "isentrope help max_lag",
    "isentrope init",
    "isentrope methods",
    "isentrope methods show dapo top_entropy",
}
"""Commands that a test of this file runs as they stand."""

BY_OTHERS = {
    ".ci/run": ".ci/run::make test",
    ". .venv/bin/activate": "tests/project/test_pages.py::test_activated_environment_has_the_command",
    "isentrope": "tests/project/test_pages.py::test_command_runs",
    "isentrope actor": "tests/system/test_own_run.py::test_actor_joins_by_url_and_leaves_when_the_run_ends",
    "isentrope actor --redis URL --run NAME": (
        "tests/system/test_own_run.py::test_actor_joins_by_url_and_leaves_when_the_run_ends"
    ),
    "isentrope actor --run NAME --depot URL --cache DIR": (
        "tests/system/test_own_run.py::test_the_actor_had_nothing_but_the_broker_and_the_depot"
    ),
    "isentrope actor --per-gpu": (
        "tests/isentrope/launch/test_per_gpu.py::test_one_that_failed_is_started_again_until_it_leaves"
    ),
    "isentrope compare RUN...": (
        "tests/isentrope/report/test_compare.py::test_methods_are_told_apart_and_seeds_belong_together"
    ),
    "isentrope train RUN.toml --from RUN": (
        "tests/system/test_own_run.py::test_the_next_stage_begins_with_what_it_leaves"
    ),
    "isentrope compare RUN.toml --method grpo --method dapo+top_entropy --seeds 3": (
        "tests/system/test_compared_methods.py::test_methods_are_trained_and_compared_also_over_a_kill"
    ),
    "isentrope compare RUN.toml --method A --method B+C --seeds N": (
        "tests/system/test_compared_methods.py::test_methods_are_trained_and_compared_also_over_a_kill"
    ),
    "isentrope methods certify": (
        "tests/isentrope/test_certify.py::test_no_division_of_a_batch_shows_in_sets_and_gradients"
    ),
    "isentrope methods certify [NAMES]": "tests/isentrope/test_cli.py::test_only_what_cannot_be_parsed_is_2",
    "isentrope bench kernels": "tests/isentrope/test_cli.py::test_the_benchmark_without_a_gpu_says_what_works_there",
    "isentrope bench kernels --json F": (
        "tests/isentrope/test_cli.py::test_the_benchmark_without_a_gpu_says_what_works_there"
    ),
    "isentrope check": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope check run.toml": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope demo": "tests/system/test_on_policy.py::test_equal_seeds_give_equal_metrics",
    "isentrope demo --method kl_cov": "tests/system/test_faults.py::test_entropy_control_acts",
    "isentrope depot": "tests/isentrope/test_joining.py::test_a_runs_published_files_are_offered_until_a_signal",
    "isentrope depot RUN --bind ADDR:PORT": (
        "tests/isentrope/test_joining.py::test_a_runs_published_files_are_offered_until_a_signal"
    ),
    "isentrope eval runs/digit-walk": (
        "tests/system/test_own_run.py::test_what_it_leaves_is_exported_and_evaluated_by_command"
    ),
    "isentrope score": "tests/system/test_curriculum.py::test_scores_of_all_prompts_lie_beside_the_data",
    "isentrope score RUN.toml": "tests/system/test_curriculum.py::test_scores_of_all_prompts_lie_beside_the_data",
    "isentrope export runs/digit-walk folder": (
        "tests/system/test_own_run.py::test_what_it_leaves_is_exported_and_evaluated_by_command"
    ),
    "isentrope exporter": (
        "tests/isentrope/exporter/test_serving.py::test_metrics_are_served_over_http_by_name_or_folder"
    ),
    "isentrope exporter --run NAME --bind ADDR:PORT": (
        "tests/isentrope/exporter/test_serving.py::test_metrics_are_served_over_http_by_name_or_folder"
    ),
    "isentrope dlq": "tests/isentrope/test_dlq.py::test_letters_are_listed_and_shown",
    "isentrope dlq list": "tests/isentrope/test_dlq.py::test_letters_are_listed_and_shown",
    "isentrope dlq show LETTER": "tests/isentrope/test_dlq.py::test_letters_are_listed_and_shown",
    "isentrope dlq requeue": "tests/isentrope/test_dlq.py::test_a_requeue_marks_the_folder_once",
    "isentrope dlq requeue LETTER": "tests/isentrope/test_dlq.py::test_a_requeue_marks_the_folder_once",
    "isentrope replay": "tests/isentrope/test_replaying.py::test_it_says_what_came_out",
    "isentrope replay RUN": "tests/system/test_faults.py::test_its_steps_come_out_again_to_the_bit",
    "isentrope replay RUN --to BATCH": "tests/system/test_faults.py::test_its_steps_come_out_again_to_the_bit",
    "isentrope replay runs/demo": "tests/system/test_faults.py::test_its_steps_come_out_again_to_the_bit",
    "isentrope runs": "tests/isentrope/test_runs.py::test_every_state_is_told",
    "isentrope status --watch": "tests/isentrope/test_status.py::test_watching_shows_it_until_its_command_has_ended",
    "isentrope logs -f": "tests/isentrope/test_log_lines.py::test_each_log_is_shown_by_its_name",
    "isentrope stop": "tests/isentrope/test_stopping.py::test_the_command_gets_sigterm_and_its_end_is_told",
    "isentrope --install-completion": "tests/isentrope/test_cli.py::test_a_shell_completes_commands",
    "isentrope init NAME": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope init chat": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope init digit_walk": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope init digit_walk mine": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope init gsm8k": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope init judge": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope init verl": "tests/isentrope/test_init.py::test_an_example_passes_the_check",
    "isentrope mode": "tests/system/test_own_run.py::test_mode_changes_while_it_runs",
    "isentrope mode async": "tests/system/test_own_run.py::test_mode_changes_while_it_runs",
    "isentrope mode on_policy": "tests/system/test_own_run.py::test_mode_changes_while_it_runs",
    "isentrope plan": "tests/deploy/test_runs.py::test_the_table_of_capacity_is_what_the_plan_says",
    "isentrope plan run.toml --gpus 80GB": (
        "tests/isentrope/capacity/test_request.py::test_it_plans_by_the_run_file_and_by_a_measured_run"
    ),
    "isentrope scale": "tests/isentrope/test_scale.py::test_bounds_of_the_run_file_hold",
    "isentrope scale actors=+1": (
        "tests/system/test_room.py::test_the_newest_leaves_by_itself_when_one_is_wanted_again"
    ),
    "isentrope status": "tests/system/test_own_run.py::test_actor_joins_by_url_and_leaves_when_the_run_ends",
    "isentrope train": "tests/system/test_own_run.py::test_run_finishes_and_reports",
    "isentrope train RUN.toml [key=value …]": "tests/system/test_own_run.py::test_run_finishes_and_reports",
    "isentrope train --only train": (
        "tests/isentrope/test_kept_training.py::test_a_run_trains_the_groups_that_another_has_kept"
    ),
    "isentrope train RUN.toml --only rollout": (
        "tests/isentrope/test_kept_training.py::test_groups_are_made_and_kept_by_a_command_of_its_own"
    ),
    "isentrope train RUN.toml --only train --groups RUN": (
        "tests/isentrope/test_kept_training.py::test_a_run_trains_the_groups_that_another_has_kept"
    ),
    "isentrope train run.toml": "tests/system/test_own_run.py::test_run_finishes_and_reports",
    "isentrope train run.toml learner.batches=20": "tests/system/test_own_run.py::test_run_finishes_and_reports",
    "isentrope train run.toml learner.batches=60": "tests/system/test_own_run.py::test_run_finishes_and_reports",
    "isentrope train run.toml run.name=grpo learner.method=grpo learner.objective.tokens=none": (
        "tests/isentrope/test_init.py::test_digit_walk_without_its_selection_of_tokens_is_plain_grpo"
    ),
    "isentrope train run.toml run.name=luffy learner.method=luffy learner.objective.tokens=none"
    " data.demonstration=demonstration learner.staleness.max_lag=0": (
        "tests/isentrope/test_init.py::test_digit_walk_has_demonstrations_to_learn_from"
    ),
    "PYTHONPATH=src:peers python -m isentrope.kernels.bench --json kernels/bench/results/h200.json --check": (
        "tests/kernels/test_bench.py::test_a_machine_without_a_gpu_is_told_of_aot"
    ),
    "make": ".ci/run::make demo",
    "make TORCH_INDEX=…": "tests/project/test_pages.py::test_index_of_torch_reaches_pip",
    "make check": ".ci/run::make check",
    "make demo": ".ci/run::make demo",
    "make demo-gpu": "tests/project/test_locks.py::test_the_gpus_install_is_beside_that_for_the_cpu",
    "make docs": "tests/project/test_pages.py::test_generated_files_are_written_where_they_are_wanted",
    "make install-gpu": "tests/project/test_locks.py::test_the_gpus_install_is_beside_that_for_the_cpu",
    "make lock-check": "tests/project/test_locks.py::test_a_lock_resolves",
    "make quick": ".ci/run::make test",
    "make test": ".ci/run::make test",
    'pip install "isentrope[gpu]"': "tests/project/test_locks.py::test_a_lock_resolves",
}
"""Commands that another test, or CI, runs with the same or smaller arguments; of `.ci/run` a line is named."""

NOT_RUN = {
    "make aot": "installs other Tritons from the network",
    "make bench": "installs the public kernels from the network",
    "make soak": "runs what is too long for make test",
    "make results": "takes 20 minutes on a quiet machine, and writes into the checkout",
    "make lock": "asks the package index and rewrites the lock files",
    "pre-commit install": "writes into the checkout's .git",
}


def test_readme_begins_with_two_commands() -> None:
    fenced = re.findall(r"```sh\n(.*?)```", _text(ROOT / "README.md"), re.DOTALL)
    assert [line.partition("#")[0].strip() for line in fenced[0].splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT.resolve()).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", _without_code(_text(page))):
        target, _, anchor = "".join(link).partition("#")
        path = (page.parent / target).resolve() if target else page
        if "://" in target:
            continue
        if not path.exists() or (anchor and anchor not in _anchors(_text(path))):
            lost.append("".join(link))
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT.resolve()).as_posix())
def test_files_that_are_named_exist(page: Path) -> None:
    """By their path from the root, or by its last parts."""
    prose = re.sub(r"\]\([^)]*\)", "", _text(page))  # where a link leads is another test's
    named = re.findall(r"(?<!\[)`(?:\.\./)?([\w./-]+\.(?:py|lua|md|toml|json|jsonl|css|html|svg|txt|npz|log))`", prose)
    files = [path.as_posix() for folder in _FOLDERS for path in (ROOT / folder).rglob("*.*")]
    lost = [
        name
        for name in named
        if name not in ELSEWHERE and not (ROOT / name).exists() and not any(path.endswith(f"/{name}") for path in files)
    ]
    assert lost == []


@pytest.mark.parametrize("name", TABLED)
def test_a_table_of_modules_names_what_is_there_and_all_modules_beside_it(name: str) -> None:
    named, lost = _modules(ROOT / name)
    beside = {path for each in named if each.suffix == ".py" for path in each.parent.glob("[!_]*.py")}
    assert lost == []
    assert beside and sorted(beside - named) == []


def test_every_command_runs_or_says_why_not() -> None:
    told = {command for page in PAGES for command in _commands(_text(page))}
    assert told - (HERE | BY_OTHERS.keys() | NOT_RUN.keys()) == set()
    assert len(NOT_RUN) <= 6


@pytest.mark.parametrize("place", sorted(set(BY_OTHERS.values())))
def test_whoever_runs_a_command_exists(place: str) -> None:
    path, _, name = place.partition("::")
    text = _text(ROOT / path)
    if path.endswith(".py"):
        names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        assert name in names
    else:
        assert name in text.splitlines()


@pytest.mark.parametrize("command", sorted(name for name in NOT_RUN if name.startswith("make ")))
def test_make_knows_the_targets_that_are_not_run(command: str) -> None:
    subprocess.run([*command.split(), "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", sorted(HERE))
def test_command_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = command.replace("KEY", "learner.batches").split()
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


def test_activated_environment_has_the_command() -> None:
    """The script that README names, of the environment that runs this test."""
    script = Path(sys.prefix) / "bin" / "activate"
    found = subprocess.run(
        ["sh", "-c", f". {script} && command -v isentrope"], check=True, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).parent == script.parent


def test_index_of_torch_reaches_pip() -> None:
    told = subprocess.run(
        ["make", "-n", "VENV=nowhere", "TORCH_INDEX=https://index", "demo"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.search(r"torch==\S+ --index-url https://index", told.stdout)


def test_generated_files_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "isentrope.handbook", str(tmp_path)], check=True)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"docs/configuration.md", "docs/metrics.md", "deploy/redis/users.acl"}


@pytest.mark.parametrize(("language", "name"), [("toml", "run.toml"), ("python", "rewards.py")])
def test_readme_quotes_the_files_of_the_example_it_writes(language: str, name: str) -> None:
    (quoted,) = re.findall(rf"```{language}\n(.*?)```", _text(ROOT / "README.md"), re.DOTALL)
    assert quoted in _text(ROOT / "examples" / "digit_walk" / name)
    assert len(quoted.splitlines()) <= 22


def test_the_glossarys_keys_are_those_that_errors_advise() -> None:
    table = _text(ROOT / "docs" / "glossary.md").partition("## Keys of the run file")[2]
    rows = [re.findall(r"`([\w.]+)`", line) for line in table.splitlines() if line.startswith("| `")]
    told = {(name.rpartition(".")[2], ours) for ours, *names in rows for name in names}
    assert len(told) > 20 and told <= set(HERE_IS.items())


def test_readmes_table_is_what_its_data_file_holds() -> None:
    data = json.loads(_text(ROOT / "docs" / "results" / "demo.json"))
    measure = runpy.run_path(str(ROOT / "docs" / "results" / "measure.py"))
    assert {"command", "commit", "date", "machine", "runs", "versions"} <= data.keys()
    assert measure["table"](data) in _text(ROOT / "README.md")


def test_readmes_table_of_recovery_is_what_the_soak_tests_saw() -> None:
    data = json.loads(_text(ROOT / "docs" / "results" / "soak.json"))
    made = runpy.run_path(str(ROOT / "docs" / "results" / "recovery_table.py"))["table"](data)
    assert made in _text(ROOT / "README.md")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _without_code(markdown: str) -> str:
    return re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)


def _anchors(markdown: str) -> set[str]:
    """Headings as GitHub makes links of them."""
    titles = re.findall(r"^#+ (.+)$", _without_code(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _modules(folder: Path) -> tuple[set[Path], list[str]]:
    """Return the modules, files and folders that tables of a README name in their first column, and the names that are
    none. A name is looked up in the folder, and in those that its cell or the table's heading names, as `wire/`."""
    named, lost = set[Path](), list[str]()
    table = r"^\| *((?:module|file|folder)\b[^|]*)\|.*\n\|[-| ]+\n((?:\|.*\n)+)"
    for heading, rows in re.findall(table, _text(folder / "README.md"), re.MULTILINE | re.IGNORECASE):
        for row in rows.splitlines():
            names = re.findall(r"`([^`]+)`", row.split("|")[1])
            around = [each for each in (*re.findall(r"`([^`]+/)`", heading), *names) if each.endswith("/")]
            for name in names:
                places = [folder / each / (name + end) for each in (".", *around) for end in ("", ".py")]
                found = next((place for place in places if place.exists()), None)
                if found is None:
                    lost.append(name)
                else:
                    named.add(found)
    return named, lost


def _commands(markdown: str) -> Iterator[str]:
    """What is to be typed: lines of shell blocks, and inline code that begins with a program's name."""
    fenced = [line for block in re.findall(r"```sh\n(.*?)```", markdown, re.DOTALL) for line in block.splitlines()]
    prose = _without_code(markdown)
    indented = re.findall(r"^    (\S.*)$", prose, re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", prose)
    for text in fenced + indented + inline:
        command = re.sub(r"\s+#.*", "", text).strip()
        if re.match(r"(isentrope|make|pre-commit|\.ci/run|\. \.venv\S*|PYTHONPATH=\S+|pip|git)( |$)", command):
            yield command
