"""Tokens per second and memory of what prepares people's files for `fit`.

    python benchmarks/data.py --gigabytes 2

Writes a JSONL file of conversations into a temporary folder, reads it, prepares packed rows, and reads
these in another order, as an epoch does; each size in a process of its own, whose largest memory over
that of the imports is noted. Memory that stays the same for a small file and for a large one is the
claim. Writes benchmarks/results/data.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tiny_quality import ROOT, circumstances

ROW_LENGTH = 256
BATCH = 8
# Tokens a second that models train on with two cores at rest, the tiny one from 20,000 to 40,000 by
# backend: the bar is 20 times as much.
CONSUMED = {"gemma_tiny_en, slowest": 20_000, "gemma_tiny_en, fastest": 40_000, "270m shape": 64}


def write_conversations(path: Path, size: int) -> None:
    """Conversations of about a kilobyte, until the file has `size` bytes."""
    from keras_gemma.data import stories

    told = list(stories.stories(3000, seed=0))
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            for a, b in random.integers(0, len(told), (1000, 2)).tolist():
                said = [("user", told[a][:300]), ("assistant", told[b])]
                messages = [{"role": role, "content": text} for role, text in said]
                file.write(json.dumps({"messages": messages}) + "\n")


def largest_memory() -> int:
    """Bytes of this process, at its largest until now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))


def measure(path: Path) -> dict:
    """One file, from the disk to batches."""
    from keras_gemma import GemmaCausalLMPreprocessor
    from keras_gemma.data import read
    from keras_gemma.data.prepared_rows import PreparedRows

    preprocessor = GemmaCausalLMPreprocessor.from_preset(
        "gemma_tiny_en", sequence_length=ROW_LENGTH, pack=True
    )
    preprocessor(["A text, so that all is imported."])
    before = largest_memory()
    clock, worked = time.perf_counter(), time.process_time()
    records = read(path)
    read_seconds, read_worked = time.perf_counter() - clock, time.process_time() - worked
    clock, worked = time.perf_counter(), time.process_time()
    rows = PreparedRows(records, preprocessor)
    prepare_seconds, prepare_worked = time.perf_counter() - clock, time.process_time() - worked
    order = np.random.default_rng(0).permutation(len(rows))[: 1000 * BATCH]
    clock = time.perf_counter()
    for at in range(0, len(order), BATCH):
        rows[order[at : at + BATCH]]
    epoch_seconds = time.perf_counter() - clock
    tokens = rows.report.tokens
    return {
        "bytes": path.stat().st_size,
        "documents": len(records),
        "tokens": tokens,
        "fill": round(rows.report.fill, 4),
        "read_bytes_per_second": round(path.stat().st_size / read_seconds),
        "prepared_tokens_per_second": round(tokens / (read_seconds + prepare_seconds)),
        "prepared_tokens_per_second_of_the_processor": round(
            tokens / (read_worked + prepare_worked)
        ),
        "epoch_tokens_per_second": round(
            len(order) * ROW_LENGTH * rows.report.fill / epoch_seconds
        ),
        "memory_over_imports": largest_memory() - before,
        "memory_of_imports": before,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    runs = []
    for share in (1 / 4, 1):  # the rows of both are more than is kept in memory
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "conversations.jsonl"
            write_conversations(path, int(arguments.gigabytes * share * 1e9))
            command = [sys.executable, __file__, "--measure", str(path)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(runs[-1], flush=True)
    # By the processor's time: other programs on the machine would slow down a model as well.
    rate = runs[-1]["prepared_tokens_per_second_of_the_processor"]
    times = {name: round(rate / tokens, 1) for name, tokens in CONSUMED.items()}
    written = {
        **circumstances(),
        "bar": "20 times what a model consumes; memory the same for both files",
        "times_what_models_consume": times,
        "runs": runs,
    }
    path = ROOT / "benchmarks" / "results" / "data.json"
    path.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
