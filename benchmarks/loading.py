"""What loading a full-size checkpoint takes: seconds and memory, beside KerasHub and Transformers.

    python benchmarks/loading.py gemma_2b_en --folder /tmp/checkpoints

Writes random bfloat16 weights of that size, once, as a KerasHub preset and as a folder of Transformers; then loads each in a process of
its own, the files being in the system's cache. Beside it: reading the files once, into memory that
is kept. Peak is the process's peak less that of the same script with the tiny model. Writes
benchmarks/results/loading_PRESET.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny_quality import ROOT, circumstances

FORMATS = ("keras_hub", "huggingface")
OURS = """
import os, sys, time
began = time.perf_counter()
from keras_gemma import GemmaCausalLM, GemmaBackbone
make = lambda place: GemmaBackbone.from_preset(place, dtype="bfloat16")
"""
ANSWER = """
def make(place):
    import numpy as np
    model = GemmaCausalLM(GemmaBackbone.from_preset(place, dtype="bfloat16"), preprocessor=None)
    model.compile(sampler="greedy", plan="none")
    ids = np.array([[2, 5, 6, 7]])
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return model.generate(inputs, max_length=5, stop_token_ids=None)
"""
KERAS_HUB = """
import os, sys, time
import keras_hub
make = lambda place: keras_hub.models.GemmaBackbone.from_preset(place, dtype="bfloat16")
"""
TRANSFORMERS = """
import os, sys, time
import torch, transformers
transformers.AutoModelForCausalLM
make = lambda place: transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
"""
MEASURE = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return {l.split(":")[0]: int(l.split()[1]) * 1024 for l in lines if l.startswith(("VmHWM", "VmRSS"))}
began = time.perf_counter()
model = make(sys.argv[1])
seconds = time.perf_counter() - began
import json; print(json.dumps({"seconds": round(seconds, 2), **peak()}))
"""


def write(card: dict, place: Path, format: str) -> None:
    """Random weights of a card's architecture, one tensor at a time."""
    from keras_gemma.conversion.checkpoint import Source
    from keras_gemma.conversion.formats import FORMATS as MODULES
    from keras_gemma.presets.sizes import weight_shapes

    shapes = weight_shapes(card["backbone"], card["architecture"])
    noise = np.random.default_rng(0).normal(0, 0.02, 2**20).astype("float32")

    def read(path):
        shape = shapes[path]
        return np.resize(noise.astype("bfloat16"), shape)

    source = Source(card["backbone"], card["architecture"], "bfloat16", read, None, 8192)
    MODULES[format].save(place, source)


def measured(code: str, place: Path, backend: str) -> dict:
    """What a process of its own says."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code + MEASURE, str(place)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


READ = """
import sys, time
from pathlib import Path
import numpy as np
def make(place):
    kept = []
    for path in Path(place).iterdir():
        with path.open("rb", buffering=0) as file:
            for start in range(0, path.stat().st_size, 2**26):
                kept.append(np.zeros(min(2**26, path.stat().st_size - start), "uint8"))
                file.readinto(kept[-1])
    return kept
"""


def touch(size: int) -> None:
    """Use memory and give it back: a virtual machine waits where it has none ready, whoever asks."""
    np.zeros(size, "uint8")[::4096] = 1


def medians(runs: list[dict]) -> dict:
    """Of what each run says; one that failed speaks for all."""
    if failed := [run for run in runs if "failed" in run]:
        return failed[0]
    return {key: round(float(np.median([run[key] for run in runs])), 2) for key in runs[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="gemma_2b_en")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/checkpoints"))
    parser.add_argument("--backends", nargs="+", default=["jax", "torch", "tensorflow"])
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--answer", action="store_true", help="ours make a token, too")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from keras_gemma.presets import registry

    card = registry.card(arguments.preset)
    tiny = registry.card("gemma_tiny_en")
    runs = []
    for format in FORMATS:
        places = {}
        for name, described in (("tiny", tiny), (arguments.preset, card)):
            places[name] = arguments.folder / f"{name}_{format}"
            if not places[name].exists():
                write(described, places[name], format)
        for backend in arguments.backends:
            who = {"keras_gemma": OURS}
            if arguments.answer:
                who["keras_gemma and one token"] = OURS + ANSWER
            if not arguments.ours_only:
                if format == "keras_hub":
                    who["keras_hub"] = KERAS_HUB
                elif backend == "torch":
                    who["transformers"] = TRANSFORMERS
            place, weights = places[arguments.preset], card["parameters"] * 2
            for library, code in who.items():
                base = measured(code, places["tiny"], backend)
                found, read = [], []
                for _ in range(arguments.rounds):
                    for kept, what in ((read, READ), (found, code)):
                        touch(weights)
                        kept.append(measured(what, place, backend))
                run = {"library": library, "format": format, "backend": backend, **medians(found)}
                run["reading_seconds"] = medians(read)["seconds"]
                if "VmHWM" in run and "VmHWM" in base:
                    run["peak_of_weights"] = round((run["VmHWM"] - base["VmHWM"]) / weights, 3)
                    run["creation_seconds"] = base["seconds"]
                print(json.dumps(run), flush=True)
                runs.append(run)
    found = {**circumstances(), "parameters": card["parameters"], "runs": runs}
    path = ROOT / "benchmarks" / "results" / f"loading_{arguments.preset}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
