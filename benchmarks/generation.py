"""Tokens a second, time to the first token, first calls and memory: ours beside others'.

    python benchmarks/generation.py --dtypes float32 --scenes decode_32 --sides 'keras_gemma/*' '*/jax'
    python benchmarks/generation.py --python llama_cpp=/path/to/bin/python --keep

Each side runs in a process of its own, on one core by the clock of the processor, or with `--cores 2` on
both by the wall's. Sides take turns, `--rounds` times; figures are medians of the rounds, and ratios are
medians of the rounds' ratios. Weights are random. `--keep` writes
benchmarks/results/generation_SHAPE_DTYPE_CORES.json; scenes that are not measured stay as they are in it.
"""

import argparse
import json
import os
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

from machine import ROOT, origin, processor
from scenes import SCENES, Scene
from sides import DTYPES, SHAPES, SIDES, Pool

RESULTS = ROOT / "benchmarks" / "results"
OURS = "keras_gemma/"


def measured(pool: Pool, scene: Scene, names: list[str], rounds: int) -> list[dict]:
    """What each side answers in each round; one that failed is not asked again."""
    found, failed = [], {}
    for number in range(min(rounds, scene.most_rounds)):
        answers = {}
        for name in names:
            answers[name] = failed.get(name) or scene.run(pool, name)
            if answers[name].get(scene.figure, 1) <= 0:  # a difference of two noisy numbers
                answers[name] = {"failed": "too small to tell"}
            if "failed" in answers[name]:
                failed[name] = answers[name]
            elif not failed.get(name):
                print(f"  {number + 1}  {name}: {shown(answers[name])}", flush=True)
        found.append(answers)
    return found


def summary(rounds: list[dict], figure: str, more_is_better: bool) -> dict:
    """Medians of each side, and how many times ours are as good as each other one.

    >>> two = [{"keras_gemma/jax": {"s": 1.0}, "b": {"s": 2.0}}, {"keras_gemma/jax": {"s": 2.0}, "b": {"s": 6.0}}]
    >>> summary(two, "s", more_is_better=False)["times"]
    {'keras_gemma/jax': {'b': 2.5}}
    """
    sides, times = {}, {}
    for name in rounds[0]:
        last = rounds[-1][name]
        if "failed" in last:
            sides[name] = last
            continue
        sides[name] = {key: _short(median(r[name][key] for r in rounds)) for key in last}
        sides[name]["rounds"] = [_short(r[name][figure]) for r in rounds]
    well = [name for name in sides if "failed" not in sides[name]]
    for ours in (name for name in well if name.startswith(OURS)):
        pairs = {
            other: [(r[ours][figure], r[other][figure]) for r in rounds]
            for other in well
            if other != ours
        }
        times[ours] = {
            other: _short(median(a / b if more_is_better else b / a for a, b in values))
            for other, values in pairs.items()
        }
    return {"sides": sides, "times": times}


def _short(number: float) -> float:
    """Four digits are more than a measurement has."""
    return float(f"{number:.4g}")


def shown(answer: dict) -> str:
    """An answer on a line."""
    return ", ".join(f"{key} {value:.4g}" for key, value in answer.items())


def table(row: dict, figure: str) -> str:
    """A scene for the eye."""
    lines = [f"\n{row['title']}, {row['dtype']} ({figure}):"]
    for name, found in row["sides"].items():
        if "failed" in found:
            lines.append(f"  {name:24} failed: {found['failed']}")
            continue
        ratios = ", ".join(
            f"{ours.removeprefix(OURS)} {ratios[name]:.2f} x"
            for ours, ratios in row["times"].items()
            if name in ratios and not name.startswith(OURS)
        )
        lines.append(f"  {name:24} {found[figure]:>12,.4g}   {ratios}")
    return "\n".join(lines)


def write(path: Path, head: dict, scenes: dict) -> None:
    """Put scenes into a result file; what another machine measured goes."""
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("processor") == head["processor"]:
        scenes = {**before["scenes"], **scenes}
    scenes = {name: scenes[name] for name in SCENES if name in scenes}
    path.write_text(json.dumps({**head, "scenes": scenes}, indent=1) + "\n")


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
                "cores_busy_elsewhere": _short(median(pool.others)) if pool.others else None,
                "average": [round(load, 2) for load in os.getloadavg()],
            },
            **origin(),
        }
        for side in sides:
            row["sides"][side] = {**pool.facts[side], **row["sides"][side]}
        minutes = (time.perf_counter() - began) / 60
        print(f"{table(row, scene.figure)}\n  took {minutes:.1f} minutes", flush=True)
        if chosen.keep:
            write(path, head, {name: row})


if __name__ == "__main__":
    main()
