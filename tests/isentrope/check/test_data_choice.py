"""The check tells what is left of the data, and how soon files of a mixture repeat."""

import json
from pathlib import Path

from isentrope.check.data_choice import notes
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import open_prompts


def test_what_is_kept_and_when_files_repeat_is_told(tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 10)):
        rows = [json.dumps({"prompt": str(index), "level": index}) for index in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    data = DataConfig(train={"a": "a.jsonl", "b": "b.jsonl"}, mixture={"a": 1, "b": 3}, keep="level < 6")
    prompts = open_prompts(data, run_folder=tmp_path, seed=0)
    assert list(notes(data, prompts)) == [
        "data.keep: 6 of 10 prompts of b are used",
        "data.mixture: a pass over each file ends after this many prompts: a in 16, b in 8",
    ]
    plain = DataConfig(train="a.jsonl")
    assert list(notes(plain, open_prompts(plain, run_folder=tmp_path, seed=0))) == []
