"""Tokens a second and memory of training, all weights and LoRA: ours beside others'.

    python benchmarks/training.py --scenes full --sides 'keras_gemma/*' 'transformers/*' --rounds 3
    python benchmarks/training.py --scenes full lora --keep
    python benchmarks/training.py --scenes lora_2b --sides '*/torch'     # needs some 12 GB, or says so
    python benchmarks/training.py --shape tiny --rounds 1                # does it run?

Each side trains as its users do: models of Keras by `fit` with AdamW, Transformers in a loop with
`torch.optim.AdamW` and PEFT's adapters. Weights and texts are random, all tokens count. Sides run in processes of
their own, and take turns, as in generation.py. In each round each backend is asked how fast
it multiplies the matrices of a step, too; `share` is the time that a step's products take at that rate
(step_flops.py says which) of the time that a step took. `bytes` is the process's peak, less that of the same
script with the tiny model. `--keep` writes benchmarks/results/training_SHAPE_DTYPE_CORES.json.
"""

import argparse
import os
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import NamedTuple

from machine import ROOT, origin, processor
from rounds import measured, short, summary, table, write
from sides import SHAPES, Pool
from step_flops import least_seconds, step_flops

RESULTS = ROOT / "benchmarks" / "results"
TRAINED = ("keras_gemma/jax", "keras_gemma/torch", "keras_gemma/tensorflow")
TRAINED += ("keras_hub/jax", "keras_hub/torch", "transformers/torch")


class Scene(NamedTuple):
    """A row of the table."""

    title: str
    shape: str
    dtype: str
    room: int  # what a process takes, in its weights' bytes
    rank: int = 0  # of adapters; 0 trains all weights
    rows: int = 2
    length: int = 256
    # Steps before the clock runs: the first compiles, and makes the optimizer's state.
    warm: int = 2
    steps: int = 3
    most_rounds: int = 99
    figure: str = "tokens_per_second"

    def run(self, pool: Pool, name: str) -> dict:
        """Asks a side for its steps, or a backend for its products."""
        if name.startswith("products/"):
            return pool.ask(name, {"measure": "products", "tokens": self.rows * self.length})
        return pool.ask(name, self.request())

    def request(self) -> dict:
        """What a side's process is asked."""
        keys = ("rows", "length", "steps", "warm", "rank")
        return {"measure": "training", **{key: getattr(self, key) for key in keys}}


SCENES = {
    "full": Scene("all weights, 2 x 256 tokens", "270m", "float32", 8),
    "lora": Scene("LoRA of rank 8, 2 x 256 tokens", "270m", "float32", 5, rank=8),
    "lora_2b": Scene(
        "LoRA of rank 8, 2 x 512 tokens", "2b", "bfloat16", 3, 8, 2, 512, 1, 1, 1, "bytes"
    ),
}


def shares(rounds: list[dict], flops: dict[str, float], tokens: int) -> list[dict]:
    """Rounds without the backends' products: each side's share of what its backend could do instead."""
    found = []
    for answers in rounds:
        rates = {
            name.split("/")[1]: rate
            for name, rate in answers.items()
            if name.startswith("products/") and "failed" not in rate
        }
        sides = {name: answers[name] for name in answers if not name.startswith("products/")}
        for name, answer in sides.items():
            products = rates.get(name.split("/")[1])
            if products and "failed" not in answer:
                least = least_seconds(flops, products)
                answer["share"] = least * answer["tokens_per_second"] / tokens
                answer["products_flops"] = sum(flops.values()) / least
        found.append(sides)
    return found


def without_the_process(pool: Pool, scene: Scene, rounds: list[dict]) -> None:
    """Take off the bytes of each side what the same script takes with the tiny model."""
    for name, last in rounds[-1].items():
        if "failed" in last:
            continue
        tiny = pool.ask_afresh(name, scene.request(), shape="tiny")
        for answers in rounds:
            answers[name]["bytes"] -= tiny.get("bytes", 0)


def run(scene: Scene, sides: list[str], chosen: argparse.Namespace, folder: Path) -> dict:
    """A scene's row."""
    pool = Pool(scene.shape, scene.dtype, chosen.cores, chosen.core, {}, folder, scene.room)
    backends = dict.fromkeys(name.split("/")[1] for name in sides)
    probes = [f"products/{backend}" for backend in backends] if scene.figure != "bytes" else []
    flops = step_flops(SHAPES[scene.shape], scene.rows, scene.length, scene.rank)
    began = time.perf_counter()
    try:
        answers = measured(pool, scene, [*probes, *sides], chosen.rounds)
        products = {name: answers[-1][name] for name in probes}
        answers = shares(answers, flops, scene.rows * scene.length)
        without_the_process(pool, scene, answers)
    finally:
        pool.close()
    row = {
        "title": scene.title,
        "dtype": scene.dtype,
        "figure": scene.figure,
        "flops": flops,
        "products": {
            name: found if "failed" in found else {key: short(found[key]) for key in found}
            for name, found in products.items()
        },
        **summary(answers, scene.figure, more_is_better=scene.figure == "tokens_per_second"),
        "load": {
            "cores_busy_elsewhere": short(median(pool.others)) if pool.others else None,
            "average": [round(load, 2) for load in os.getloadavg()],
        },
        **origin(),
    }
    for side in sides:
        row["sides"][side] = {**pool.facts[side], **row["sides"][side]}
    print(f"{table(row, scene.figure)}\n  took {(time.perf_counter() - began) / 60:.1f} minutes")
    return row


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", default=["full", "lora"], choices=SCENES)
    parser.add_argument("--sides", nargs="+", default=["*"], help="patterns of LIBRARY/BACKEND")
    parser.add_argument("--shape", choices=SHAPES, help="instead of the scene's, for a try")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--core", type=int, default=0, help="which one, if it is one")
    parser.add_argument("--folder", type=Path, help="where JAX keeps what it compiled")
    parser.add_argument("--keep", action="store_true", help="write the result files")
    chosen = parser.parse_args(argv)
    chosen.sides = [
        name for name in TRAINED if any(fnmatch(name, pattern) for pattern in chosen.sides)
    ]
    return chosen


def main():
    chosen = arguments_of()
    for name in chosen.scenes:
        scene = SCENES[name]
        if chosen.shape:
            scene = scene._replace(shape=chosen.shape)
        print(f"\n{name}, {scene.shape}, {scene.dtype}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            folder = chosen.folder or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            row = run(scene, chosen.sides, chosen, folder)
        head = {
            "shape": scene.shape,
            "dtype": scene.dtype,
            "cores": chosen.cores,
            "clock": "processor" if chosen.cores == 1 else "wall",
            "processor": processor(),
        }
        if chosen.keep:
            path = RESULTS / f"training_{scene.shape}_{scene.dtype}_{chosen.cores}.json"
            write(path, head, {name: row}, SCENES)


if __name__ == "__main__":
    main()
