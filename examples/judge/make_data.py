"""Makes train.jsonl, questions for which a judge needs no answer key, and a model to start from, beside this file."""

import itertools
import json
import random
from pathlib import Path

from isentrope.demo.warm_start import make_tiny_model

HERE = Path(__file__).parent

pairs = list(itertools.product(range(1, 12), repeat=2))
random.Random(0).shuffle(pairs)
shown = [(f"What is {first} + {second} ?", str(first + second)) for first, second in pairs]
lines = "".join(json.dumps({"prompt": question}) + "\n" for question, _ in shown)
(HERE / "train.jsonl").write_text(lines, encoding="utf-8")
make_tiny_model(HERE / "model", shown, steps=120)
