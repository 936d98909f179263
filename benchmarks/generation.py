"""Tokens a second, time to the first token, first calls and memory: ours beside others'.

    python benchmarks/generation.py --dtypes float32 --scenes decode_32 --sides 'keras_gemma/*' '*/jax'
    python benchmarks/generation.py --python llama_cpp=/path/to/bin/python --keep

Each side runs in a process of its own, on one core by the clock of the processor, or with `--cores 2` on
both by the wall's. Sides take turns, `--rounds` times; figures are medians of the rounds, and ratios are
medians of the rounds' ratios. Weights are random. `--keep` writes
benchmarks/results/generation_SHAPE_DTYPE_CORES.json; scenes that are not measured stay as they are in it.
"""

import argparse
import os
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

from machine import ROOT, origin, processor
from rounds import measured, short, summary, table, write
from scenes import SCENES
from sides import DTYPES, SHAPES, SIDES, Pool

RESULTS = ROOT / "benchmarks" / "results"


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=SCENES, metavar="NAME")
    parser.add_argument("--sides", nargs="+", default=["*"], help="patterns of LIBRARY/BACKEND")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--shape", default="270m", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--core", type=int, default=0, help="which one, if it is one")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="LIBRARY=PATH",
        help="interpreters of libraries that are not installed here",
    )
    parser.add_argument("--folder", type=Path, help="where GGUF files are kept")
    parser.add_argument("--keep", action="store_true", help="write the result files")
    chosen = parser.parse_args(argv)
    chosen.python = dict(pair.split("=", 1) for pair in chosen.python)
    chosen.sides = [
        name for name in SIDES if any(fnmatch(name, pattern) for pattern in chosen.sides)
    ]
    return chosen


def main():
    chosen = arguments_of()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for dtype in chosen.dtypes:
            pool = Pool(chosen.shape, dtype, chosen.cores, chosen.core, chosen.python, folder)
            try:
                run(chosen, pool)
            finally:
                pool.close()


def run(chosen: argparse.Namespace, pool: Pool) -> None:
    """All scenes of one dtype."""
    head = {
        "shape": pool.shape,
        "dtype": pool.dtype,
        "cores": pool.cores,
        "clock": "processor" if pool.cores == 1 else "wall",
        "weight_bytes": pool.weight_bytes(),
        "processor": processor(),
    }
    path = RESULTS / f"generation_{pool.shape}_{pool.dtype}_{pool.cores}.json"
    for name in chosen.scenes:
        scene = SCENES[name]
        sides = [
            side
            for side in chosen.sides
            if SIDES[side].takes(name, pool.dtype) and scene.suits(side)
        ]
        if not sides:
            continue
        print(f"\n{name}, {pool.dtype}, {pool.shape}", flush=True)
        pool.others.clear()
        began = time.perf_counter()
        found = measured(pool, scene, sides, chosen.rounds)
        row = {
            "title": scene.title,
            "dtype": pool.dtype,
            "figure": scene.figure,
            **summary(found, scene.figure, scene.more_is_better),
            "load": {
                "cores_busy_elsewhere": short(median(pool.others)) if pool.others else None,
                "average": [round(load, 2) for load in os.getloadavg()],
            },
            **origin(),
        }
        for side in sides:
            row["sides"][side] = {**pool.facts[side], **row["sides"][side]}
        minutes = (time.perf_counter() - began) / 60
        print(f"{table(row, scene.figure)}\n  took {minutes:.1f} minutes", flush=True)
        if chosen.keep:
            write(path, head, {name: row}, SCENES)


if __name__ == "__main__":
    main()
