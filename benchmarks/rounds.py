"""Rounds in which sides take turns, and what they come to: medians, ratios, a table, a file."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from sides import Pool

OURS = "keras_gemma/"


def measured(pool: Pool, scene: Any, names: list[str], rounds: int) -> list[dict]:
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
        sides[name] = {key: short(median(r[name][key] for r in rounds)) for key in last}
        sides[name]["rounds"] = [short(r[name][figure]) for r in rounds]
    well = [name for name in sides if "failed" not in sides[name]]
    for ours in (name for name in well if name.startswith(OURS)):
        pairs = {
            other: [(r[ours][figure], r[other][figure]) for r in rounds]
            for other in well
            if other != ours
        }
        times[ours] = {
            other: short(median(a / b if more_is_better else b / a for a, b in values))
            for other, values in pairs.items()
        }
    return {"sides": sides, "times": times}


def short(number: float) -> float:
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


def write(path: Path, head: dict, scenes: dict, order: Iterable[str]) -> None:
    """Put scenes into a result file, in that order; what another machine measured goes."""
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("processor") == head["processor"]:
        scenes = {**before["scenes"], **scenes}
    scenes = {name: scenes[name] for name in order if name in scenes}
    path.write_text(json.dumps({**head, "scenes": scenes}, indent=1) + "\n")
