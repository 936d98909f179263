"""Tables of what `benchmarks/training.py` and `benchmarks/new_skill.py` measured, out of their result files."""

import json
from pathlib import Path
from typing import Any

from speed_tables import NONE_YET, OURS, circumstances


def results(folder: Path) -> list[dict[str, Any]]:
    """Files of steps that were timed; those of the bundled models' own training have no scenes."""
    found = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("training_*.json"))]
    return [result for result in found if "scenes" in result]


def steps(folder: Path) -> str:
    """Every figure of every scene."""
    parts = []
    for result in results(folder):
        cores = "one core" if result["cores"] == 1 else f"{result['cores']} cores"
        for row in result["scenes"].values():
            parts.append(f"### {row['title']}: {result['shape']}, {result['dtype']}, {cores}")
            parts.append("\n".join(_scene(row)))
            parts.append(f"A step takes {_gigaflops(row)}. {circumstances(result, [row])}")
    return "\n\n".join(parts) or NONE_YET


def _scene(row):
    """Sides, and how many times as fast ours are as each of the others."""
    others = [name for name in row["sides"] if not name.startswith(OURS)]
    yield (
        "| | tokens/s | of what its backend multiplies | peak memory | "
        f"{' | '.join(f'times `{other}`' for other in others)} |"
    )
    yield f"|---|{'---:|' * (3 + len(others))}"
    best = min(
        (f["bytes"] for n, f in row["sides"].items() if n in others and "bytes" in f), default=0
    )
    for name, found in row["sides"].items():
        if "failed" in found:
            why = "not installed" if "missing" in found else "failed"
            yield f"| `{name}` | {why} |{' |' * (2 + len(others))}"
            continue
        memory = f"{found['bytes'] / 1e6:,.0f} MB"
        if best and name not in others:
            memory += f" ({found['bytes'] / best:.2f} x)"
        share = ""
        if "share" in found:
            share = f"{found['share']:.0%} of {found['products_flops'] / 1e9:.0f} GFLOP/s"
        times = (row["times"].get(name, {}).get(other) for other in others)
        is_timed = row["figure"] == "tokens_per_second"
        cells = [f"{found['tokens_per_second']:.1f}" if is_timed else "", share, memory]
        cells += [f"{x:.2f}" if is_timed and x is not None else "" for x in times]
        yield f"| `{name}` | {' | '.join(cells)} |"


def _gigaflops(row):
    return f"{sum(row['flops'].values()) / 1e9:,.0f} GFLOP"


def new_skills(folder: Path) -> str:
    """What a small model learned by LoRA, and what it kept."""
    found = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("new_skill_*.json"))]
    return "\n\n".join(map(_new_skill, found)) or NONE_YET


def _new_skill(found):
    done, example = found["training"], found["example"]
    way = f"LoRA of rank {done['rank']}" if done["rank"] else "all weights"
    told = (
        f"`{found['preset']}` learns to {found['skill']} (“{example['question']}” → "
        f"“{example['answer']}”) from {done['examples']:,} examples, with {done['old_examples']:,} of "
        f"its old skills among them; {way}, {done['trained_parameters']:,} numbers trained, "
        f"{done['epochs']} epochs, {done['seconds'] / 60:.0f} minutes on {found['device']} "
        f"({found['backend']}). The mean of its old skills was {found['old_before']:.1%} and is "
        f"{found['old_after']:.1%}. Whole answer exactly right, with 95 % intervals:"
    )
    lines = [
        told,
        "",
        "| skill | before | after | what is asked was kept out of training |",
        "|---|---:|---:|---|",
    ]
    for skill, before in found["before"].items():
        name = f"**{skill}**" if skill == found["skill"] else skill
        held_out = "yes" if before["held_out"] else "no"
        lines.append(
            f"| {name} | {_share(before)} | {_share(found['after'][skill])} | {held_out} |"
        )
    asked = next(iter(found["before"].values()))["questions"]
    return "\n".join([*lines, "", f"{asked} questions a skill; measured on {found['date']}."])


def _share(row):
    low, high = row["interval"]
    return f"{row['accuracy']:.1%} ({low:.1%} to {high:.1%})"
