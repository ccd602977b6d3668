"""The command line is light, and every mistake of a user is three lines on standard error and the right exit code."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import isentrope
from isentrope import cli

HEAVY = {"torch", "vllm", "ray", "transformers", "deepspeed", "matplotlib", "pydantic", "numpy", "redis"}


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["isentrope", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"import sys, isentrope.cli; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_package_runs_and_says_its_version() -> None:
    told = subprocess.check_output([sys.executable, "-m", "isentrope", "--version"], text=True)
    assert told == f"isentrope {isentrope.__version__}\n"


def test_a_shell_completes_commands() -> None:
    asked = {"_ISENTROPE_COMPLETE": "complete_bash", "COMP_WORDS": "isentrope st", "COMP_CWORD": "1"}
    told = subprocess.run(
        [Path(sys.prefix) / "bin" / "isentrope"], env=os.environ | asked, capture_output=True, text=True
    )
    assert told.stdout.split() == ["status", "stop"]


def test_help_costs_less_than_a_second() -> None:
    """Of processor time: on a busy machine everything takes longer."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "isentrope.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize(
    ("command", "change", "code", "says"),
    [
        ("train", "learner.batchs=3", 64, "did you mean learner.batches?"),
        ("check", "learner.batches=three", 64, "must be a whole number"),
        ("check", "learner.method=gprpo", 64, "grpo"),
        ("train", "learner.objective.clip.hgih=0.3", 64, "did you mean `high`?"),
        ("train", "data.train=none.jsonl", 65, "none.jsonl does not exist on"),
        ("check", "data.reward=rewards:exactt", 65, "rewards:exact"),
        ("train", "data.reward=rewards:raises", 65, "KeyError: 'no such thing'"),
        ("check", "data.reward=rewards:nothing", 65, "returned None"),
        ("check", "data.reward=rewards:nan", 65, "returned nan"),
        ("check", "data.reward=rewards:needs_label", 65, "needs 'label'"),
        ("check", "data.columns.answer=label", 65, "column 'label' is missing"),
        ("train", "model.path=./nowhere", 64, "there is no model folder"),
        ("check", "model.max_model_len=8192", 64, "more than the 4096 positions"),
        ("check", "sampling.max_new_tokens=5000", 64, "leaves no room for a prompt"),
    ],
)
def test_mistake_is_three_lines_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_file: Path,
    command: str,
    change: str,
    code: int,
    says: str,
) -> None:
    assert _run(monkeypatch, command, run_file, change) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and says in shown.err
    assert shown.err.count("\n") <= 3 and "Traceback" not in shown.err
    assert "Ray starts" not in shown.out and not (run_file.parent / "runs").exists()


def test_the_place_of_a_mistake_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    """Although the name of the file, `run.toml`, begins as that of a table."""
    (run_file.parent / "model" / "config.json").unlink()
    assert _run(monkeypatch, "check", run_file) == 64
    shown = capsys.readouterr().err
    assert "run.toml:6: model.path" in shown and shown.count("run.toml") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("learner.prompts_per_batch=10", "updates_per_batch = 8 is suggested by kl_cov"),
        ("weights.publish_every=2", "max_lag = 0 is suggested by kl_cov"),
    ],
)
def test_what_a_preset_suggests_is_named_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path, change: str, says: str
) -> None:
    run_file.write_text(run_file.read_text(encoding="utf-8").replace("updates_per_batch = 2\n", ""), encoding="utf-8")
    share = 'learner.objective.kl=[{kind="abs",anchor="old",coef=1.0,tokens={kind="top_cov",share=0.05}}]'
    assert _run(monkeypatch, "check", run_file, "learner.method=kl_cov", share, change) == 64
    assert says in capsys.readouterr().err


def test_divergence_with_one_on_policy_update_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "check", run_file, "learner.method=kl_cov", "learner.mode=on_policy") == 64
    assert "one update per batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no rows"),
        ('{"prompt": "x", "answer": "y"}\n{"prompt": \n', "train.jsonl:2"),
        ('{"q": "x"}\n', "'prompt'"),
    ],
)
def test_broken_data_is_told_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path, text: str, says: str
) -> None:
    (run_file.parent / "train.jsonl").write_text(text)
    assert _run(monkeypatch, "check", run_file) == 65
    assert says in capsys.readouterr().err


def test_reward_that_hangs_is_ended_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "check", run_file, "data.reward=rewards:hangs", "data.reward_timeout_s=0.5") == 65
    assert "took more than 0.5 s" in capsys.readouterr().err


def test_all_mistakes_are_told_and_the_first_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    code = _run(
        monkeypatch, "check", run_file, "data.train=none.jsonl", "model.path=./nowhere", "data.reward=rewards:x"
    )
    shown = capsys.readouterr()
    assert code == 65
    assert shown.err.count("error: ") == 3
    assert [line[0] for line in shown.out.splitlines()] == ["✓", "✓", "✓", "✗", "✗", "✗", "-", "✓"]


def test_the_check_goes_on_after_wrong_keys_and_leaves_out_what_reads_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    changes = ("learner.lr=1", "data.prompts=question", "learner.method=gprpo", "model.path=./nowhere")
    assert _run(monkeypatch, "check", run_file, *changes) == 64
    shown = capsys.readouterr()
    assert [line[0] for line in shown.out.splitlines()] == ["✗", "✓", "✗", "-", "-", "✗", "-", "✓"]
    for told in ("unknown key learner.lr", "unknown key data.prompts", "gprpo", "no model folder"):
        assert told in shown.err


def test_a_missing_table_does_not_hide_other_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    run_file.write_text('[model]\npath = "nowhere/model"\n[data]\nreward = "rewards:exact"\n')
    assert _run(monkeypatch, "check", run_file) == 64
    shown = capsys.readouterr().err
    for told in ("table [run] is missing", "key data.train is missing", "no model"):
        assert told in shown


def test_run_file_in_order_passes_with_its_doubts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "check", run_file, "learner.updates_per_batch=1") == 0
    shown = capsys.readouterr().out
    stages = ["keys", "install", "objective", "data", "reward", "model", "prompts", "machine"]
    assert [line.split()[1] for line in shown.splitlines()[: len(stages)]] == stages
    assert "note: " in shown  # clipping does nothing with one update
    assert "[<bos>]|7|>|2|:" in shown and "2 prompts of 5 to 5 tokens" in shown


def test_a_rule_is_compared_with_what_the_reward_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    misspelt = "data.correct=rewards:graded.accurate"
    assert _run(monkeypatch, "train", run_file, "data.reward=rewards:graded", misspelt) == 64
    assert 'write correct = "rewards:graded.accuracy"' in capsys.readouterr().err
    assert _run(monkeypatch, "check", run_file, "data.reward=rewards:graded") == 0
    assert "note: rewards:graded gives 0.25" in capsys.readouterr().out


def test_a_null_in_a_later_row_is_found_with_what_the_reward_was_called_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    rows = [{"prompt": "7 > 2 :", "answer": answer} for answer in ("1", "2", None, None)]
    (run_file.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _run(monkeypatch, "check", run_file, "data.reward=exact_match") == 65
    shown = capsys.readouterr().err
    for told in ("holds None", "data.reward", "train.jsonl:3", "the first of 2 rows in which 'answer' is null", '"0"'):
        assert told in shown


def test_every_answer_is_read_by_a_built_in_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    rows = [{"prompt": "7 > 2 :", "answer": answer} for answer in ("1", "2", "3", "\\boxed{")]
    (run_file.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _run(monkeypatch, "check", run_file, "data.reward=math") == 65
    shown = capsys.readouterr().err
    for told in ("math-verify finds no expression", "train.jsonl:4", "tried, 1 fail"):
        assert told in shown


def test_a_reward_that_was_only_imported_is_not_said_to_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "check", run_file, "data.train=none.jsonl") == 65
    assert "✓ reward (imported; not called" in capsys.readouterr().out


def test_one_mistake_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "check", run_file, "data.reward_weights=[1, 2]") == 64
    assert capsys.readouterr().err.count("error: ") == 1


def test_held_out_prompts_that_are_trained_on_are_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "check", run_file, "data.eval=./train.jsonl") == 0
    assert "data.eval is data.train" in capsys.readouterr().out


def test_a_reward_file_that_hides_a_library_module_is_told_to_be_renamed(run_file: Path) -> None:
    """Although the command is given beside it, where interpreters look for modules first."""
    (run_file.parent / "math.py").write_text("def length(completions, **columns): return [0.0 for _ in completions]")
    command = [sys.executable, "-P", "-m", "isentrope.cli", "check", run_file.name, "data.reward=math:length"]
    ended = subprocess.run(command, cwd=run_file.parent, capture_output=True, text=True, check=False)
    assert ended.returncode == 65, ended.stderr
    assert ended.stderr.startswith("error: math.py beside the run file has the name of another module")
    assert "fix: rename the file" in ended.stderr and ended.stderr.count("\n") == 3


def test_wrong_broker_url_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    monkeypatch.setenv("ISENTROPE_REDIS_URL", "http://:secret@nowhere")
    assert _run(monkeypatch, "train", run_file) == 64
    shown = capsys.readouterr()
    assert "broker's URL cannot be parsed" in shown.err and "secret" not in shown.err + shown.out


def test_debug_shows_the_traceback_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_file: Path
) -> None:
    assert _run(monkeypatch, "--debug", "check", run_file, "learner.batchs=3") == 64
    assert "Traceback" in capsys.readouterr().err


def test_bug_is_a_traceback_and_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*arguments: object) -> int:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("isentrope.commands.show_status", broken)
    assert _run(monkeypatch, "status", tmp_path) == 70
    assert "ZeroDivisionError: ours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["trian"], 2),
        (["train"], 2),
        (["demo", "--batches", "many"], 2),
        (["demo", "--mode", "asink"], 64),
        (["demo", "--batches", "0"], 64),
        (["demo", "--method", "gprpo"], 64),
        (["mode", "fast", "."], 64),
        (["status", "."], 73),
        (["status"], 73),
        (["actor", "--run", "Upper", "--redis", "redis://localhost:1"], 64),
        (["methods", "show", "gprpo"], 64),
        (["methods", "certify", "gprpo"], 64),
    ],
)
def test_only_what_cannot_be_parsed_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(monkeypatch, *arguments) == code
    assert "Traceback" not in capsys.readouterr().err


def test_name_that_nothing_has_is_64_and_told_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "help", "max_lga") == 64
    assert "did you mean `max_lag`?" in capsys.readouterr().err


def test_methods_are_listed_and_shown_with_who_set_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "methods") == 0
    assert {"grpo", "dr_grpo", "dapo", "kl_cov"} <= set(capsys.readouterr().out.split())
    assert _run(monkeypatch, "methods", "show", "grpo", "dapo") == 0
    assert "\nclip.high = 0.28  # dapo, over 0.2 of grpo. How far" in capsys.readouterr().out


def test_status_of_nothing_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _run(monkeypatch, "status", tmp_path, "--json") == 73
    assert json.dumps(str(tmp_path))[1:-1] in capsys.readouterr().err


def test_the_benchmark_without_a_gpu_says_what_works_there() -> None:
    command = [sys.executable, "-m", "isentrope.cli", "bench", "kernels"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    hidden.pop("TRITON_INTERPRET", None)
    ended = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (64, "")
    assert ended.stderr.splitlines() == [
        "error: no CUDA device here",
        "  fix: use --aot to count the instructions of compiled kernels",
    ]
