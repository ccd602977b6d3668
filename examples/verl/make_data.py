"""Makes train.parquet in the form of verl's data, and a model that solves some of it, beside this file."""

import itertools
import random
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from isentrope.demo.warm_start import make_tiny_model

HERE = Path(__file__).parent

pairs = list(itertools.product(range(1, 12), repeat=2))
random.Random(0).shuffle(pairs)
rows = [
    {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": f"What is {first} plus {second} ?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(first + second)},
        "extra_info": {"split": "train", "index": index},
    }
    for index, (first, second) in enumerate(pairs)
]
parquet.write_table(pa.Table.from_pylist(rows), HERE / "train.parquet")
shown = [
    ([{"role": "user", "content": f"What is {first} plus {second} ?"}], f"{first} + {second} = {first + second}")
    for first, second in pairs
]
make_tiny_model(HERE / "model", shown, steps=120)
