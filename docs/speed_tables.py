"""Tables of what `benchmarks/generation.py` and `benchmarks/gpu.py` measured, out of their result files."""

import json
from pathlib import Path
from typing import Any

NONE_YET = "_Not measured in this state of the repository._"
OURS = "keras_gemma"
# Columns of the short table: heading, library, and whether kernels of our own take part.
COLUMNS = (
    ("keras_gemma with kernels", OURS, True),
    ("keras_gemma", OURS, False),
    ("KerasHub", "keras_hub", False),
    ("zeromodels", "zeromodels", False),
    ("Transformers", "transformers", False),
    ("llama.cpp", "llama_cpp", False),
)
BACKENDS = {"jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}
SHORT = (  # rows of the short table
    ("float32", "decode_32"),
    ("float32", "decode_1000"),
    ("float32", "decode_32_rows_8"),
    ("float32", "first_token_32"),
    ("float32", "first_token_512"),
    ("bfloat16", "decode_32"),
    ("bfloat16", "first_token_32"),
    ("int8", "decode_32"),
    ("int4", "decode_32"),
    ("float32", "second_turn"),
    ("float32", "slots_16"),
    ("float32", "json_schema"),
    ("float32", "lookup_quoting"),
    ("float32", "cold"),
    ("float32", "peak_memory"),
)


def results(folder: Path) -> list[dict[str, Any]]:
    """All result files, those of one core first, then by shape and by bytes of a weight."""
    found = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("generation_*_*_*.json"))]
    return sorted(found, key=lambda r: (r["cores"], r["shape"] != "270m", -r["weight_bytes"]))


def short(folder: Path) -> str:
    """The best of each library on one core, for the README."""
    found = {r["dtype"]: r for r in results(folder) if (r["shape"], r["cores"]) == ("270m", 1)}
    if not found:
        return NONE_YET
    lines = [
        f"| | {' | '.join(heading for heading, *_ in COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
    ]
    measured = []
    for dtype, scene in SHORT:
        row = found.get(dtype, {}).get("scenes", {}).get(scene)
        if row:
            lines.append(f"| {dtype}: {row['title']} | {' | '.join(_cells(row))} |")
            measured.append(row)
    first = next(iter(found.values()))
    return "\n".join([*lines, "", circumstances(first, measured)])


def _cells(row):
    """A cell for each library: its best side; the best of all in bold."""
    best = {
        column: _best(row, library, kernels) for column, (_, library, kernels) in enumerate(COLUMNS)
    }
    figures = [_rank(row, side) for side in best.values() if side]
    for column, (_, library, _) in enumerate(COLUMNS):
        name = best[column]
        if name is None:
            yield _why(row, library)
            continue
        text = quantity(row, name)
        if backend := BACKENDS.get(name.split("/")[1] if "/" in name else ""):
            text += f" ({backend})"
        yield f"**{text}**" if _rank(row, name) == max(figures) else text


def _best(row, library, kernels):
    names = [
        name
        for name, found in row["sides"].items()
        if name.split("/")[0] == library
        and not name.endswith("/no_plan")
        and bool(found.get("kernels")) == kernels
        and row["figure"] in found
    ]
    return max(names, key=lambda name: _rank(row, name), default=None)


def _rank(row, name):
    """Larger is better."""
    figure = row["sides"][name][row["figure"]]
    return figure if row["figure"] == "tokens_per_second" else -figure


def _why(row, library):
    """What to say of a library without a figure."""
    found = [f for name, f in row["sides"].items() if name.split("/")[0] == library]
    if any("missing" in f for f in found):
        return "not installed"
    return "failed" if any("failed" in f for f in found) else ""


def quantity(row: dict, name: str) -> str:
    """A side's figure with its unit, and what it is of something else, where that was measured.

    >>> row = {"figure": "seconds", "sides": {"a": {"seconds": 0.1734, "of_anew": 0.1}, "b": {"failed": "no"}}}
    >>> quantity(row, "a"), quantity(row, "b")
    ('173 ms (0.10 x)', 'failed')
    """
    found = row["sides"][name]
    if row["figure"] not in found:
        return "not installed" if "missing" in found else "failed"
    value = found[row["figure"]]
    share = next((f" ({found[key]:.2f} x)" for key in found if key.startswith("of_")), "")
    if row["figure"] == "tokens_per_second":
        return (f"{value:.3g}/s" if value < 1000 else f"{value:,.0f}/s") + share
    if row["figure"] == "seconds":
        return (f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms") + share
    return f"{value / 1e6:,.0f} MB{share}"


def circumstances(result, rows):
    """What figures belong to, in a sentence or two."""
    processor = result["processor"]
    flags = ", ".join(processor.get("flags", ())) or "no flags known"
    versions = {}
    for row in rows:
        for found in row["sides"].values():
            versions |= found.get("versions", {})
    clock = "one pinned core, processor time" if result["cores"] == 1 else "wall clock"
    busy = [row["load"]["cores_busy_elsewhere"] for row in rows]
    busy = [cores for cores in busy if cores is not None]
    elsewhere = f"; {max(busy):.2f} cores were busy with other work at the most" if busy else ""
    return (
        f"{processor['name']} ({flags}), {clock}{elsewhere}. Medians; measured on "
        f"{', '.join(sorted({row['date'] for row in rows}))} with "
        f"{', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."
    )


def full(folder: Path) -> str:
    """Every figure of every result file."""
    parts = []
    for result in results(folder):
        rows = result["scenes"]
        cores = "one core" if result["cores"] == 1 else f"{result['cores']} cores"
        sides = list(dict.fromkeys(name for row in rows.values() for name in row["sides"]))
        lines = [
            f"### {result['shape']}, {result['dtype']}, {cores}",
            "",
            f"| | {' | '.join(row['title'] for row in rows.values())} |",
            f"|---|{'---:|' * len(rows)}",
        ]
        for name in sides:
            cells = [quantity(r, name) if name in r["sides"] else "" for r in rows.values()]
            kernels = [r["sides"][name].get("kernels") for r in rows.values() if name in r["sides"]]
            told = f"`{name}`" + (f", {kernels[0]}" if kernels[0] else "")
            lines.append(f"| {told} | {' | '.join(cells)} |")
        lines += ["", *_ratios(rows), "", circumstances(result, list(rows.values()))]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or NONE_YET


def _ratios(rows):
    """How many times as good the best of ours is as each other library on each backend."""
    others = {
        name: None
        for row in rows.values()
        for ratios in row["times"].values()
        for name in ratios
        if not name.startswith(OURS)
    }
    if not others:
        return
    yield "Times as good as others, the best of ours with kernels and without:"
    yield ""
    yield f"| | {' | '.join(row['title'] for row in rows.values())} |"
    yield f"|---|{'---:|' * len(rows)}"
    for other in others:
        cells = []
        for row in rows.values():
            pair = [_best(row, OURS, kernels) for kernels in (True, False)]
            found = [row["times"].get(ours, {}).get(other) for ours in pair]
            cells.append(" / ".join("–" if x is None else f"{x:.2f}" for x in found))
        yield f"| `{other}` | {' | '.join(cells)} |"


def on_gpus(folder: Path) -> str:
    """Each case of `benchmarks/gpu.py` that was measured."""
    tables = []
    for path in sorted(folder.glob("gpu_*.json")):
        result = json.loads(path.read_text("utf-8"))
        lines = [
            f"### {BACKENDS[result['backend']]}, {result['dtype']}, {result['device']}",
            "",
            "| | prompt | rows | first token | of peak FLOP/s | decode | of the bandwidth |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(_case(case) for case in result["cases"] if "first_token_seconds" in case),
        ]
        left = [c for c in result["cases"] if "first_token_seconds" not in c]
        if left:
            lines += ["", f"Left out or failed: {len(left)}. {path.name} says why."]
        lines += ["", f"Best of three calls; measured on {result['date']}."]
        tables.append("\n".join(lines))
    return "\n\n".join(tables) or NONE_YET


def _case(case):
    shares = (
        f"{case[s]:.0%}" if s in case else "" for s in ("share_of_flops", "share_of_bandwidth")
    )
    of_flops, of_bandwidth = shares
    rate = case.get("decode_tokens_per_second")
    cells = (
        f"`{case['shape']}`",
        f"{case['prompt']:,}",
        case["rows"],
        f"{1000 * case['first_token_seconds']:,.0f} ms",
        of_flops,
        f"{rate:,.0f}/s" if rate else "",
        of_bandwidth,
    )
    return f"| {' | '.join(map(str, cells))} |"
