"""Tokens a second of a whole greedy decoding step at Gemma 270m's shape, with random weights.

18 layers, 640 wide, 4 heads of 256, 1 key head, feed-forward of 2048, 256,000 tokens: look-up, blocks,
head, argmax. JAX runs all tokens in one compiled loop, PyTorch one by one. One pinned thread is measured
in CPU time, more threads in wall time; frameworks are interleaved, medians are written.

    python benchmarks/decode.py --precision int4 --framework jax torch --threads 1 --out decode.json
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

LAYERS, WIDTH, HEADS, HEAD, FFW, VOCABULARY, SLOTS = 18, 640, 4, 256, 2048, 256_000, 256


def arguments_of():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--precision", default="int8", choices=("float32", "bfloat16", "int8", "int4")
    )
    parser.add_argument(
        "--framework", nargs="+", default=["jax", "torch"], choices=("jax", "torch")
    )
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


arguments = arguments_of()
if hasattr(os, "sched_setaffinity"):  # before a framework counts the processors
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-arguments.threads :]))
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
os.environ["JAX_PLATFORMS"] = "cpu"

import keras_gemma_kernels as kg
import numpy as np
from product import processor


def model(array):
    """`(blocks, embedding, norm)`; the packed memory is shared among frameworks."""
    rules = kg.Rules(HEADS, 1, HEAD, HEAD**-0.5)
    zeros = array(np.zeros(WIDTH, "float32"))
    blocks = [
        kg.Block(
            **{name: kg.Packed(array(p.data), p.dtype, p.shape) for name, p in layer.items()},
            pre_attention_norm=zeros,
            pre_ffw_norm=zeros,
            rules=rules,
        )
        for layer in LAYER_WEIGHTS
    ]
    table = kg.Packed(array(EMBEDDING.data), EMBEDDING.dtype, EMBEDDING.shape)
    return blocks, table, zeros


def empty(array):
    shape = (arguments.rows, SLOTS, 1, HEAD)
    return tuple(
        array(x)
        for x in (
            np.zeros(shape, "float32"),
            np.zeros(shape, "float32"),
            np.zeros(shape[:2], "int32"),
            np.full(shape[:2], -1, "int32"),
            np.zeros(shape[:1], "int32"),
        )
    )


def jax_runner():
    import jax
    import jax.numpy as jnp

    blocks, table, norm = model(jnp.asarray)

    @jax.jit
    def run(blocks, table, norm, caches, tokens):
        def step(i, state):
            caches, tokens = state
            place = (
                jnp.full((arguments.rows, 1), i, "int32"),
                jnp.ones((arguments.rows, 1), "int32"),
            )
            x, kept = kg.rows(table, tokens[:, None]) * WIDTH**0.5, []
            for block, cache in zip(blocks, caches):
                x, cache = kg.decoder_block(x, place, cache, block)
                kept.append(cache)
            logits = kg.head(x, norm, table)
            return kept, jnp.argmax(logits[:, 0], -1).astype("int32")

        return jax.lax.fori_loop(0, arguments.tokens, step, (caches, tokens))[1]

    caches = [empty(jnp.asarray) for _ in blocks]
    tokens = jnp.full(arguments.rows, 5, "int32")
    return lambda: np.asarray(run(blocks, table, norm, caches, tokens))


def torch_runner():
    import torch

    torch.set_num_threads(arguments.threads)
    blocks, table, norm = model(torch.from_numpy)
    ones = torch.ones((arguments.rows, 1), dtype=torch.int32)

    def run():
        with torch.inference_mode():
            caches = [empty(torch.from_numpy) for _ in blocks]
            tokens = torch.full((arguments.rows,), 5, dtype=torch.int32)
            for i in range(arguments.tokens):
                place = ones * i, ones
                x = kg.rows(table, tokens[:, None]) * WIDTH**0.5
                for block, cache in zip(blocks, caches):
                    x, _ = kg.decoder_block(x, place, cache, block)
                tokens = kg.head(x, norm, table)[:, 0].argmax(-1).int()
        return tokens.numpy()

    return run


def random_weights():
    random = np.random.default_rng(0)

    def packed(outputs, inputs):
        return kg.pack(
            random.standard_normal((outputs, inputs), "float32") * 0.02, arguments.precision
        )

    shapes = {
        "qkv": ((HEADS + 2) * HEAD, WIDTH),
        "output": (WIDTH, HEADS * HEAD),
        "gate_up": (2 * FFW, WIDTH),
        "down": (WIDTH, FFW),
    }
    layers = [{name: packed(*shape) for name, shape in shapes.items()} for _ in range(LAYERS)]
    return layers, packed(VOCABULARY, WIDTH)


def main():
    runners = {n: {"jax": jax_runner, "torch": torch_runner}[n]() for n in arguments.framework}
    last = {name: run() for name, run in runners.items()}
    assert all((tokens == next(iter(last.values()))).all() for tokens in last.values()), last
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    times = {name: [] for name in runners}
    for _ in range(arguments.rounds):
        for name, run in runners.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    megabytes = (
        sum(p.nbytes for layer in LAYER_WEIGHTS for p in layer.values()) + EMBEDDING.nbytes
    ) / 1e6
    results = []
    for name, taken in times.items():
        speed = arguments.tokens / statistics.median(taken)
        results.append(
            {
                "framework": name,
                "precision": arguments.precision,
                "rows": arguments.rows,
                "threads": arguments.threads,
                "isa": kg.available().isa,
                "steps_per_s": round(speed, 2),
                "best": round(arguments.tokens / min(taken), 2),
                "mb_per_step": round(megabytes, 1),
                "gb_per_s": round(speed * megabytes / 1e3, 2),
            }
        )
        print(*results[-1].values(), sep="\t", flush=True)
    if arguments.out:
        report = {"command": " ".join(sys.argv), "processor": processor(), "results": results}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


LAYER_WEIGHTS, EMBEDDING = random_weights()
if __name__ == "__main__":
    main()
