"""Makes train.jsonl and eval.jsonl, sums in GSM8K's form, and a model that solves some of them, beside this file."""

import itertools
import json
import random
from pathlib import Path

from isentrope.demo.warm_start import make_tiny_model

HERE = Path(__file__).parent

rows = [
    {
        "question": f"{name} has {had} {things} and buys {more} more . How many are there ?",
        "answer": f"{had} + {more} = {had + more}\n#### {had + more}",
    }
    for name, things, had, more in itertools.product(
        ("Ann", "Ben", "Cleo", "Dan"), ("apples", "books", "coins", "pens"), range(1, 12), range(1, 12)
    )
]
random.Random(0).shuffle(rows)
for file, part in (("train", rows[100:]), ("eval", rows[:100])):
    (HERE / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
make_tiny_model(HERE / "model", [(row["question"], row["answer"]) for row in rows[100:]], steps=150)
