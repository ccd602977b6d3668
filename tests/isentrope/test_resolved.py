"""A run's folder keeps every setting with its source; `train` accepts that file, and a refusal names what changed."""

import tomllib
from pathlib import Path

import pytest

from isentrope.config import digest, load
from isentrope.errors import RunFolderError
from isentrope.learner.objective.presets import load_objective, method_names
from isentrope.resolved import OBJECTIVE, RUN_FILE, ResolvedRun, resolve
from isentrope.runfolder import RunFolder


def _resolved(run_file: Path, *overrides: str) -> tuple[ResolvedRun, Path]:
    config, file = load(run_file, overrides)
    folder = config.output_dir(file.path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    return resolve(config, file, folder), folder


def test_the_file_in_the_folder_is_the_same_run(run_file: Path) -> None:
    overrides = ["learner.objective.clip.high=0.3", 'data.columns={answer="answer"}', "sampling.stop=['</a>']"]
    before, file = load(run_file, overrides)
    resolved, folder = _resolved(run_file, *overrides)
    resolved.write(folder)
    after, read = load(folder / RUN_FILE)
    assert digest(after, "objective") == digest(before, "objective")
    assert after.output_dir(read.path.parent) == folder and read.folder == file.folder


def test_a_long_text_of_a_file_is_the_same_run(run_file: Path) -> None:
    (run_file.parent / "long.txt").write_text("x" * 5000)
    resolved, folder = _resolved(run_file, "data.system_prompt=file:long.txt")
    resolved.write(folder)
    assert load(folder / RUN_FILE)[0].data.system_prompt == "x" * 5000


def test_a_run_beside_its_file_may_be_moved_with_it_and_another_keeps_the_place_of_its_data(
    run_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    resolved, _ = _resolved(run_file)
    assert tomllib.loads(resolved.run)["run"]["base_dir"] == "../.."
    resolved, _ = _resolved(run_file, f"run.output_dir={tmp_path_factory.mktemp('elsewhere')}")
    assert tomllib.loads(resolved.run)["run"]["base_dir"] == str(run_file.parent)


def test_each_key_says_where_it_comes_from_and_keeps_that_when_the_run_goes_on(run_file: Path) -> None:
    resolved, folder = _resolved(run_file, "learner.method=kl_cov", "learner.batches=20", "run.seed=3")
    assert 'train = "train.jsonl"  # run.toml:10' in resolved.run
    assert "batches = 20  # command line" in resolved.run
    assert "max_lag = 0  # suggested by kl_cov" in resolved.run or "group_size = 8  # default" in resolved.run
    assert "temperature = 1.0  # default" in resolved.run
    assert "# max_model_len is not set" in resolved.run
    resolved.write(folder)
    again, _ = _resolved(folder / RUN_FILE, "run.seed=4")
    assert again.run == resolved.run.replace("seed = 3", "seed = 4")


@pytest.mark.parametrize("method", method_names())
def test_the_merged_objective_is_toml_with_the_preset_of_each_key(run_file: Path, method: str) -> None:
    resolved, _ = _resolved(run_file, f"learner.method={method}")
    written = tomllib.loads(resolved.objective)["learner"]["objective"]
    merged = load_objective(method, {}, run_file.parent)
    assert written["clip"]["kind"] == merged.plain()["clip"]["kind"]
    assert all(line.endswith(("# default", f"# {method}")) for line in resolved.objective.splitlines()[2:])


def _claim(run_file: Path, *overrides: str) -> RunFolder:
    config, file = load(run_file, overrides)
    resolved, folder = _resolved(run_file, *overrides)
    objective = load_objective(config.learner.method, config.learner.objective, file.folder).plain()
    return RunFolder.claim(folder, config_digest=digest(config, objective), data_digest="d", resolved=resolved)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learner.learning_rate=2e-6"], "learner.learning_rate was 1e-06 and is 2e-06"),
        (["data.reward=rewards:raises"], 'data.reward was "rewards:exact" and is "rewards:raises"'),
        (["learner.method=dapo"], 'learner.method was "grpo" and is "dapo"'),
        (["model.max_model_len=512"], "model.max_model_len was not set and is 512"),
        (
            ["learner.zero_stage=1", "run.seed=1", "learner.batches=9"],
            "learner.zero_stage was 2 and is 1; run.seed was 0 and is 1",
        ),
    ],
)
def test_another_configuration_is_refused_by_the_keys_that_differ(
    run_file: Path, overrides: list[str], says: str
) -> None:
    _begin(run_file)
    with pytest.raises(RunFolderError) as refused:
        _claim(run_file, *overrides)
    assert refused.value.what.endswith(f"began with another configuration: {says}")
    assert refused.value.exit_code == 73


def test_keys_that_may_change_continue_the_run(run_file: Path) -> None:
    _begin(run_file)
    _claim(run_file, "learner.batches=9", "actors.count=3", "run.output_dir=runs/mine").release()


def test_a_method_file_that_has_changed_is_named_by_the_keys_of_the_objective(run_file: Path) -> None:
    method = 'name = "Own"\npaper = ""\ndiffers = ""\n[objective.clip]\nhigh = 0.3\n'
    (run_file.parent / "own.toml").write_text(method)
    _begin(run_file, "learner.method=own.toml")
    (run_file.parent / "own.toml").write_text(method.replace("0.3", "0.4"))
    with pytest.raises(RunFolderError, match=r"learner\.objective\.clip\.high was 0\.3 and is 0\.4"):
        _claim(run_file, "learner.method=own.toml")


def test_without_the_settings_of_before_a_refusal_still_has_the_digests(run_file: Path) -> None:
    folder = _begin(run_file)
    for name in RUN_FILE, OBJECTIVE:
        (folder / name).unlink()
    with pytest.raises(RunFolderError, match=r"another configuration: [0-9a-f]{8}, now [0-9a-f]{8}"):
        _claim(run_file, "run.seed=1")


def _begin(run_file: Path, *overrides: str) -> Path:
    from run_records import make_run_record

    config, file = load(run_file, overrides)
    objective = load_objective(config.learner.method, config.learner.objective, file.folder).plain()
    with _claim(run_file, *overrides) as folder:
        folder.begin(make_run_record(config_digest=digest(config, objective)))
    return folder.path
