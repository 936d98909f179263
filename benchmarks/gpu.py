"""What a GPU makes of the 2B and the 7B in bfloat16, beside what its memory and its cores allow.

    KERAS_BACKEND=jax python benchmarks/gpu.py
    KERAS_BACKEND=torch python benchmarks/gpu.py --shapes gemma_2b_en --rows 1 8

Weights are random. Decoding: tokens a second at 1, 8 and 64 rows, and its share of the bandwidth; it reads
every weight once a step, and each row's keys and values. Prompts of 128, 2,048 and 8,192 tokens: tokens a
second, and the share of peak FLOP/s. It stops by itself after `--minutes`, and names what it did not come
to and what doesn't fit. `--keep` writes benchmarks/results/gpu_BACKEND.json; cases that are not asked for stay as
they are in it.
"""

import argparse
import gc
import json
import os
import re
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from machine import ROOT, origin
from sides import SHAPES, both_branches

from keras_gemma.presets import registry
from keras_gemma.presets.sizes import cache_bytes, parameter_count


class Peak(NamedTuple):
    """What a device can do at the most: bytes a second, dense bfloat16 FLOP a second, bytes."""

    bandwidth: float
    flops: float
    memory: float


# By a part of the device's name, the longest that fits. Figures are those of NVIDIA's data sheets (H200, H100,
# A100, L40S), of the tensor cores without sparsity.
PEAKS = {
    "H200": Peak(4.8e12, 989e12, 141e9),
    "H100": Peak(3.35e12, 989e12, 80e9),  # SXM5, "H100 80GB HBM3"
    "H100 PCIe": Peak(2.0e12, 756e12, 80e9),
    "H100 NVL": Peak(3.9e12, 835e12, 94e9),
    "A100-SXM4-80GB": Peak(2.039e12, 312e12, 80e9),
    "A100 80GB PCIe": Peak(1.935e12, 312e12, 80e9),
    "A100-SXM4-40GB": Peak(1.555e12, 312e12, 40e9),
    "L40S": Peak(0.864e12, 362e12, 48e9),
}
DTYPE = "bfloat16"
BYTES = 2  # of a number in it


def peak_of(device: str) -> Peak | None:
    """What is known of a device.

    >>> peak_of("NVIDIA H100 80GB HBM3").bandwidth
    3350000000000.0
    >>> peak_of("cpu") is None
    True
    """
    fitting = [name for name in PEAKS if re.search(rf"\b{name}\b", device)]
    return PEAKS[max(fitting, key=len)] if fitting else None


def device_name() -> str:
    """Of the first device of the running backend."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    if keras.config.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else "cpu"


def architecture_of(shape: str) -> dict:
    """The arguments of a `GemmaBackbone`: of a preset, or of a shape of peers/shapes.py."""
    if shape in SHAPES:
        return both_branches(SHAPES[shape])
    return registry.card(shape)["architecture"]


def step_bytes(architecture: dict, rows: int, tokens: int) -> int:
    """What one step of decoding reads: all weights, and the keys and values of each row."""
    weights = BYTES * parameter_count("GemmaBackbone", architecture)
    return weights + rows * cache_bytes(architecture, tokens, DTYPE)


def prompt_flops(architecture: dict, rows: int, tokens: int) -> int:
    """Multiplications and additions of a prompt: logits of its last token only, half a square of scores."""
    table = architecture["vocabulary_size"] * architecture["hidden_dim"]
    products = 2 * (parameter_count("GemmaBackbone", architecture) - table) * tokens
    width = architecture["num_query_heads"] * architecture["head_dim"]
    scores = 2 * 2 * architecture["num_layers"] * width * tokens * (tokens + 1) // 2
    return rows * (products + scores + 2 * table)


class Model:
    """A model of random weights."""

    def __init__(self, architecture: dict):
        from keras_gemma import GemmaBackbone, GemmaCausalLM

        self.architecture = architecture
        self.random = np.random.default_rng(0)
        self.model = GemmaCausalLM(GemmaBackbone(**architecture, dtype=DTYPE), preprocessor=None)
        self.model.context_length = 2**17  # an answer follows a prompt of the whole context, too

    def seconds(self, rows: int, prompt: int, count: int) -> float:
        """What a call takes; its tokens are on the host then."""
        ids = self.random.integers(0, self.architecture["vocabulary_size"], (rows, prompt), "int32")
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        began = time.perf_counter()
        self.model.generate(inputs, max_length=prompt + count, stop_token_ids=None)
        return time.perf_counter() - began


def measured(model: Model, rows: int, prompt: int, count: int, peak: Peak | None) -> dict[str, Any]:
    """One case: the best of three calls of either length."""
    compiling = model.seconds(rows, prompt, 1) + model.seconds(rows, prompt, 1 + count)
    first, whole = (min(model.seconds(rows, prompt, n) for _ in range(3)) for n in (1, 1 + count))
    step = (whole - first) / count
    found = {
        "first_calls_seconds": round(compiling, 2),
        "first_token_seconds": first,
        "prompt_tokens_per_second": rows * prompt / first,
    }
    if step <= 0:  # a difference of two noisy times
        return {**found, "left_out": "decoding was too short to tell: give a larger --count"}
    found["decode_tokens_per_second"] = rows / step
    if peak:
        read = step_bytes(model.architecture, rows, prompt + count // 2)
        flops = prompt_flops(model.architecture, rows, prompt)
        found |= {
            "share_of_bandwidth": read / step / peak.bandwidth,
            "share_of_flops": flops / first / peak.flops,
        }
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def unfit(architecture: dict, rows: int, tokens: int, peak: Peak | None) -> str | None:
    """Why a case is not tried: weights and caches alone are more than the device holds."""
    needed = step_bytes(architecture, rows, tokens)
    if peak and needed > peak.memory:
        return f"weights and cache are {needed / 1e9:.0f} GB of {peak.memory / 1e9:.0f}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["gemma_2b_en", "gemma_7b_en"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 2048, 8192])
    parser.add_argument("--count", type=int, default=128, help="tokens that are decoded")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--keep", action="store_true", help="write the result file")
    chosen = parser.parse_args()
    began = time.perf_counter()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    import keras

    device, backend = device_name(), keras.config.backend()
    peak = peak_of(device)
    if peak is None:
        print(f"Peaks of {device!r} are not known: no shares.", file=sys.stderr)
    cases = []
    for shape in chosen.shapes:
        architecture, model = architecture_of(shape), None
        for prompt in chosen.prompts:
            for rows in chosen.rows:
                case: dict[str, Any] = {"shape": shape, "prompt": prompt, "rows": rows}
                if reason := unfit(architecture, rows, prompt + chosen.count, peak):
                    case["left_out"] = reason
                elif time.perf_counter() - began > 60 * chosen.minutes:
                    case["left_out"] = "no time was left"
                else:
                    try:
                        model = model or Model(architecture)
                        case |= measured(model, rows, prompt, chosen.count, peak)
                    except Exception as error:  # noqa: BLE001  (out of memory has a name of its own in each)
                        case["failed"] = f"{type(error).__name__}: {error}"[:300]
                print(json.dumps(case), flush=True)
                cases.append(case)
                if chosen.keep:  # now, for a machine that is lent may be gone soon
                    keep(device, backend, cases)
        del model
        gc.collect()


def keep(device: str, backend: str, cases: list[dict]) -> None:
    """Put cases into the result file, where those of the same device stay."""
    import keras

    path = ROOT / "benchmarks" / "results" / f"gpu_{backend}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    kept = before["cases"] if before.get("device") == device else []
    versions = {"keras": keras.version()}
    head = {"device": device, "backend": backend, "dtype": DTYPE, "versions": versions}
    found = {**head, **origin(), "cases": together(kept, cases)}
    path.write_text(json.dumps(found, indent=1) + "\n")


def together(before: list[dict], now: list[dict]) -> list[dict]:
    """The cases of two runs; the newer ones where both have some.

    >>> one, other = ({"shape": "a", "prompt": 1, "rows": n} for n in (1, 2))
    >>> len(together([one, other], [{**one, "failed": "why"}]))
    2
    """
    found = {(case["shape"], case["prompt"], case["rows"]): case for case in [*before, *now]}
    return [found[key] for key in sorted(found)]


if __name__ == "__main__":
    main()
