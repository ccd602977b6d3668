"""Makes train.jsonl, eval.jsonl and the model to start from, beside this file."""

import json
from pathlib import Path

from isentrope.demo.model import make_model
from isentrope.rollout.data.tasks import open_task

HERE = Path(__file__).parent
TASK = open_task("digit_walk")

for name, problem, count in (("train", TASK.train, 2000), ("eval", TASK.eval, 200)):
    rows = [{"prompt": row.prompt, **row.columns} for row in map(problem, range(count))]
    if name == "train":
        rows = [{**row, "demonstration": TASK.train(seq).demonstration} for seq, row in enumerate(rows)]
    (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
make_model(HERE / "model")
