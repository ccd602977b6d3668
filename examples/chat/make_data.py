"""Makes train.jsonl and eval.jsonl, chats about sums, and a model with a chat template, beside this file."""

import itertools
import json
import random
from pathlib import Path

from isentrope.demo.warm_start import Messages, make_tiny_model

HERE = Path(__file__).parent
SYSTEM = (HERE / "system.txt").read_text(encoding="utf-8").strip()


def chat(question: str) -> Messages:
    """Return a chat of one question."""
    return [{"role": "user", "content": question}]


def demonstrations(first: int, second: int) -> list[tuple[Messages, str]]:
    """Return two answers to each of two questions: a short one, and one that says more than was asked."""
    system, total = {"role": "system", "content": SYSTEM}, f"{first} + {second} = {first + second}"
    questions = (f"What is {first} plus {second} ?", f"Name a sum that begins with {first} .")
    return [([system, *chat(question)], answer) for question in questions for answer in (total, f"Well , {total} .")]


pairs = list(itertools.product(range(1, 12), repeat=2))
random.Random(0).shuffle(pairs)
rows: list[dict[str, object]] = []
for first, second in pairs:
    rows.append({"prompt": chat(f"What is {first} plus {second} ?"), "answer": first + second})
    rows.append({"prompt": chat(f"Name a sum that begins with {first} ."), "answer": None})
for file, part in (("train", rows[40:]), ("eval", rows[:40])):
    (HERE / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
make_tiny_model(HERE / "model", [shown for pair in pairs for shown in demonstrations(*pair)], steps=200)
