"""Seconds from Enter to the first word, and where they go.

    python benchmarks/first_words.py --backend jax

Runs `keras-gemma generate` three times and takes the median; then the same steps in one process,
each timed. Writes benchmarks/results/first_words_BACKEND.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tiny_quality import ROOT, circumstances

STEPS = """
import time
began = time.perf_counter()
def lap(name, laps={}):
    global began
    now = time.perf_counter(); laps[name] = round(now - began, 2); began = now
    return laps
import keras; lap("import keras")
import keras_gemma; lap("import keras_gemma")
from keras_gemma import GemmaCausalLM; lap("import the model")
model = GemmaCausalLM.from_preset("gemma_tiny_en"); lap("load the preset")
pieces = model.stream("Once upon a time", max_new_tokens=20)
next(pieces); lap("compile and first piece")
list(pieces); lap("nineteen more tokens")
list(model.stream("There was a fox", max_new_tokens=20))
import json; print(json.dumps(lap("a second prompt")))
"""


def until_first_character(environment) -> float:
    """Wall seconds from the start of the command to the first byte it prints."""
    command = [Path(sys.executable).with_name("keras-gemma"), "generate", "Once upon a time"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="jax", choices=["jax", "torch", "tensorflow"])
    backend = parser.parse_args().backend
    environment = {**os.environ, "KERAS_BACKEND": backend}
    runs = [round(until_first_character(environment), 2) for _ in range(3)]
    steps = subprocess.run(
        [sys.executable, "-c", STEPS], check=True, env=environment, capture_output=True, text=True
    )
    os.environ["KERAS_BACKEND"] = backend
    found = {
        **circumstances(),
        "seconds_to_first_character": statistics.median(runs),
        "runs": runs,
        "steps": json.loads(steps.stdout.splitlines()[-1]),
    }
    path = ROOT / "benchmarks" / "results" / f"first_words_{backend}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
