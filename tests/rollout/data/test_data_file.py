"""Rows are chosen and ordered by columns of the data or of the scores beside them, and by nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isentrope.errors import DataError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import Prompts, open_prompts
from isentrope.rollout.data.scores import scores_text

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)


def write(folder: Path, name: str, scores: Sequence[object]) -> None:
    rows = [json.dumps({"prompt": f"{name} {i}", "score": score, "n": i}) for i, score in enumerate(scores)]
    (folder / f"{name}.jsonl").write_text("\n".join(rows))


def opened(folder: Path, **data: Any) -> Prompts:
    return open_prompts(DataConfig(**{"train": "a.jsonl", **data}), run_folder=folder, seed=3)


def served(prompts: Prompts, seqs: range) -> list[tuple[str, Any]]:
    return [(row.source, row.columns["n"]) for row in map(prompts.train, seqs)]


@SHARED
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    weights=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    order=st.sampled_from(["shuffled", "file", "scored:score", "scored:score descending"]),
    begin=st.integers(0, 500),
)
def test_a_restart_anywhere_goes_on_in_the_promised_order(
    tmp_path: Path, sizes: list[int], weights: list[int], order: str, begin: int
) -> None:
    names = "abc"[: len(sizes)]
    for name, size in zip(names, sizes, strict=True):
        write(tmp_path, name, [(7 * i) % 5 for i in range(size)])
    data = {
        "train": {name: f"{name}.jsonl" for name in names},
        "mixture": dict(zip(names, weights, strict=False)),
        "order": order,
    }
    whole = served(opened(tmp_path, **data), range(begin + 40))
    assert served(opened(tmp_path, **data), range(begin, begin + 40)) == whole[begin:]
    for name, size in zip(names, sizes, strict=True):
        own = [n for source, n in whole if source == name]
        for start in range(0, len(own) - size + 1, size):
            each = own[start : start + size]
            assert sorted(each) == list(range(size)), "every pass covers each row of a file once"
            if order.startswith("scored"):
                values = [(7 * n) % 5 * (-1 if "desc" in order else 1) for n in each]
                assert values == sorted(values)
            if order == "file":
                assert each == list(range(size))


def test_the_order_of_names_in_the_run_file_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path, "a", range(4))
    write(tmp_path, "b", range(4))
    files, weights = {"x": "a.jsonl", "y": "b.jsonl"}, {"x": 2, "y": 1}
    turned = {"train": dict(reversed(files.items())), "mixture": dict(reversed(weights.items()))}
    first, second = opened(tmp_path, train=files, mixture=weights), opened(tmp_path, **turned)
    assert served(first, range(30)) == served(second, range(30))
    assert first.digest == second.digest


def test_rows_that_are_not_kept_are_never_served_nor_counted(tmp_path: Path) -> None:
    write(tmp_path, "a", [0, 0.5, 1, 0.25, None])
    prompts = opened(tmp_path, keep="0 < score < 1", order="scored:score")
    assert prompts.train_count == 2
    assert served(prompts, range(4)) == [("a", 3), ("a", 1)] * 2
    assert [prompts.row(index).columns["n"] for index in range(prompts.count)] == [1, 3]


def test_scores_beside_the_data_serve_as_columns(tmp_path: Path) -> None:
    write(tmp_path, "a", range(4))
    digest = opened(tmp_path).files[0].table_digest
    rates = [{"pass_rate": rate} for rate in (0.5, 0.0, 1.0, 0.25)]
    (tmp_path / "a.scores.jsonl").write_text(scores_text({"data": digest}, rates))
    prompts = opened(tmp_path, keep="0 < pass_rate", order="scored:pass_rate descending")
    assert served(prompts, range(3)) == [("a", 2), ("a", 0), ("a", 3)]
    assert prompts.digest != opened(tmp_path).digest, "scores that order are part of the data"
    assert opened(tmp_path, order="scored:score").digest == opened(tmp_path).digest, "scores that are not used are not"
    write(tmp_path, "a", range(5))
    with pytest.raises(DataError, match="scores of other data"):
        opened(tmp_path, keep="0 < pass_rate")


@pytest.mark.parametrize(
    ("data", "what", "where"),
    [
        (
            {"order": "scored:pass_rate"},
            "column 'pass_rate' is missing, and a.scores.jsonl does not exist",
            "data.order",
        ),
        ({"keep": "scor > 1"}, "column 'scor' is missing", "data.keep"),
        ({"keep": "score > 9"}, "'score > 9' keeps none of 3 rows", "data.keep"),
        ({"order": "scored:score"}, "'score' is None, by which the row has no place", "data.order"),
        ({"order": "scored:prompt"}, "'prompt' is 'a 0'", "data.order"),
        ({"order": "file", "stages": 4}, "3 rows cannot be cut into 4 stages", "data.stages"),
    ],
)
def test_columns_that_do_not_serve_are_named_with_the_key(
    tmp_path: Path, data: dict[str, Any], what: str, where: str
) -> None:
    write(tmp_path, "a", [1, None, 2])
    with pytest.raises(DataError) as caught:
        opened(tmp_path, **data)
    assert what in caught.value.what and caught.value.where.startswith(where)


def test_examples_are_found_in_every_file(tmp_path: Path) -> None:
    write(tmp_path, "a", [1, 2])
    write(tmp_path, "b", [None])
    prompts = opened(tmp_path, train={"a": "a.jsonl", "b": "b.jsonl"}, mixture={"a": 1, "b": 1})
    (null,) = [each for each in prompts.examples() if each.kind == "null"]
    assert prompts.row(null.index).prompt == "b 0"
    assert len(prompts.most_tokens()) == prompts.count == 3
