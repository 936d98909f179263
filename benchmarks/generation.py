"""Tokens a second while decoding, and the time to the first one, beside peers.

    python benchmarks/generation.py --scenes decode_32 --who keras_gemma keras_hub --backends jax torch

Each side runs in a process of its own, pinned to one core, by the CPU clock; sides take turns, `--rounds`
times, and ratios are medians of the rounds' ratios. The model has the size of Gemma 3 270M (18 layers, a
vocabulary of 256,000) with random weights. Writes benchmarks/results/generation.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from tiny_quality import ROOT, circumstances

PEERS = Path(__file__).parent / "peers"
SCENES = {  # tokens of the prompt, rows, new tokens of a short and of a long call
    "decode_32": (32, 1, 8, 72),
    "decode_1000": (1000, 1, 8, 40),
    "decode_32_rows_8": (32, 8, 8, 40),
    "prompt_512": (512, 1, 8, 24),
}
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def measured(who: str, backend: str, scene: str, dtype: str, core: int) -> dict:
    """What a peer's script says of a scene."""
    prompt, rows, short, long = SCENES[scene]
    sizes = map(str, (prompt, rows, short, long))
    command = [sys.executable, str(PEERS / f"{who}_speed.py"), dtype, *sizes]
    done = subprocess.run(
        ["taskset", "-c", str(core), *command],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **ONE_THREAD, "KERAS_BACKEND": backend},
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=SCENES)
    parser.add_argument("--who", nargs="+", default=["keras_gemma", "keras_hub"])
    parser.add_argument("--backends", nargs="+", default=["jax", "torch", "tensorflow"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="write the result file")
    arguments = parser.parse_args()
    rows = []
    for scene in arguments.scenes:
        for backend in arguments.backends:
            rounds = []
            for _ in range(arguments.rounds):
                found = {
                    who: measured(who, backend, scene, arguments.dtype, arguments.core)
                    for who in arguments.who
                }
                print(json.dumps({"scene": scene, "backend": backend, **found}), flush=True)
                rounds.append(found)
            rows.append({"scene": scene, "backend": backend, **summary(rounds, arguments.who)})
            print(json.dumps(rows[-1]), flush=True)
    if arguments.keep:
        result = {**circumstances(), "dtype": arguments.dtype, "rows": rows}
        path = ROOT / "benchmarks" / "results" / f"generation_{arguments.dtype}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")


def summary(rounds: list[dict], names: list[str]) -> dict:
    """Medians of each side, and of the first side's ratio to each other one."""
    ours, made = names[0], {}
    for name in names:
        good = [found[name] for found in rounds if "failed" not in found[name]]
        made[name] = (
            {key: round(median(run[key] for run in good), 4) for key in good[0]}
            if good
            else rounds[0][name]
        )
        pairs = [(found[ours], found[name]) for found in rounds if "failed" not in found[name]]
        if name != ours and pairs:
            made[f"times_{name}"] = round(
                median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs), 3
            )
            made[f"first_token_times_{name}"] = round(
                median(a["first_token"] / b["first_token"] for a, b in pairs), 3
            )
    return made


if __name__ == "__main__":
    main()
