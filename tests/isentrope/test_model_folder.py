"""A version of a run opens in transformers as the model that was trained, whatever its files are called."""

import json
from pathlib import Path

import pytest
import torch
from run_records import make_run_record
from safetensors.torch import load_file, save_file
from tiny_model import VOCABULARY, Version, publish, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from isentrope.errors import ConfigError, RunFolderError, StorageError
from isentrope.learner import json_files
from isentrope.model_folder import CONFIG, INDEX, Origin, choose, export, origin, versions
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import MANIFEST, Manifest, describe

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if think %} 1{% endif %}"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """A model of another number format than the run's, with a key that no library knows, and files that are its own."""
    folder = tmp_path_factory.mktemp("begun")
    write_model(folder)
    facts = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(facts | {"dtype": "bfloat16", "house_rule": 7}))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.6}')
    (folder / INDEX).write_text("{}")
    (folder / "model-00001-of-00009.safetensors").write_bytes(b"old")
    config = ModelConfig(path=str(folder), chat_template=TEMPLATE, chat_template_args={"think": True})
    return Origin(str(folder), config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def published(run: Path) -> list[Version]:
    """Batches 1 and 2."""
    return [publish(run, batch) for batch in (1, 2)]


def _require_same(folder: Path, version: Version) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    wanted = version.model.state_dict()
    assert model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_the_newest_version_opens_as_the_model_that_was_published(
    run: Path, published: list[Version], begun: Origin, tmp_path: Path
) -> None:
    export(choose(versions(run), "", run), begun, tmp_path / "model")
    _require_same(tmp_path / "model", published[1])
    assert json.loads((tmp_path / "model" / CONFIG).read_text())["house_rule"] == 7
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.temperature == 0.6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.encode("7 > 2 :") == [1, *map(VOCABULARY.index, ["7", ">", "2", ":"])]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "5"}], tokenize=False) == "5 1"
    assert not list(tmp_path.glob("*.tmp")) and not (tmp_path / "model" / INDEX).exists()


def test_weights_in_several_files_have_an_index(published: list[Version], begun: Origin, tmp_path: Path) -> None:
    manifest = published[0].manifest
    tensors = load_file(Path(manifest.folder, manifest.shards[0].file))
    names = sorted(tensors)
    parts = {"weights-00000.safetensors": names[:9], "weights-00001.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file, metadata={"format": "pt"})
    split = describe(tmp_path, version=3, dtype="float32", files=list(parts))
    export(split, begun, tmp_path / "model")
    _require_same(tmp_path / "model", published[0])
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    assert index["weight_map"][names[0]] == "model-00001-of-00002.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("wanted", ["1", "1.1", str(version_of(1, 1))])
def test_a_version_is_named_by_its_batch_by_its_label_or_by_its_number(
    run: Path, published: list[Version], wanted: str
) -> None:
    assert choose(versions(run), wanted, run) == published[0].manifest


def test_a_version_that_is_not_there_is_refused_with_those_that_are(run: Path, published: list[Version]) -> None:
    with pytest.raises(ConfigError, match="no version '7'") as refused:
        choose(versions(run), "7", run)
    assert "1.1, 1.2" in refused.value.fix
    with pytest.raises(ConfigError, match="no version of the weights is left"):
        choose([], "", run / "nowhere")


def test_a_folder_that_holds_something_stays_as_it_is_unless_it_is_to_be_replaced(
    published: list[Version], begun: Origin, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        export(published[0].manifest, begun, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "final").mkdir()
    for version in published:
        export(version.manifest, begun, tmp_path / "final", replace=True)
        _require_same(tmp_path / "final", version)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "thesis.tex"]


def test_damaged_weights_leave_no_folder(begun: Origin, tmp_path: Path) -> None:
    manifest = publish(tmp_path, 3).manifest
    with Path(manifest.folder, manifest.shards[0].file).open("ab") as file:
        file.write(b"x")
    with pytest.raises(StorageError, match="another size"):
        export(manifest, begun, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_versions_are_found_where_a_moved_run_lies_and_unfinished_ones_are_left_out(tmp_path: Path) -> None:
    publish(tmp_path / "before", 1)
    (tmp_path / "before").rename(tmp_path / "after")
    (tmp_path / "after" / "weights" / "9").mkdir()
    (found,) = versions(tmp_path / "after")
    assert isinstance(found, Manifest) and Path(found.folder).is_relative_to(tmp_path / "after")


def test_versions_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    next(tmp_path.glob(f"weights/*/{MANIFEST}")).write_text('{"version": 1}')
    with pytest.raises(StorageError, match="can be read: 1048577"):
        choose(versions(tmp_path), "", tmp_path)


def test_a_run_says_which_model_it_began_with_or_that_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    json_files.write(tmp_path / "run", make_run_record())
    with pytest.raises(RunFolderError, match="does not say which model") as refused:
        origin(tmp_path / "run")
    assert "--model" in refused.value.fix
    settings = '[run]\nname = "a"\nbase_dir = ".."\n[model]\npath = "model"\n[data]\ntrain = "task:digit_walk"\n'
    (tmp_path / "run" / "run.toml").write_text(settings)
    assert origin(tmp_path / "run") == Origin(str(tmp_path / "model"), ModelConfig(path="model"))
    (tmp_path / "run" / "run.toml").write_text(settings.replace("[data]", "chat_template = '{{ messages }}'\n[data]"))
    moved = origin(tmp_path / "run", str(tmp_path))
    assert moved.path == str(tmp_path) and moved.config.chat_template == "{{ messages }}"


def test_a_model_that_is_not_there_is_not_looked_for_elsewhere(
    published: list[Version], begun: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder may have been moved without the model beside it; another of its name may be here."""
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="of 'model' are not here") as refused:
        export(published[0].manifest, Origin("model", begun.config), tmp_path / "exported")
    assert "--model" in refused.value.fix and not (tmp_path / "exported").exists()
