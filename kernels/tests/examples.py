"""Small decoder blocks of all kinds, with their NumPy reference."""

import keras_gemma_kernels as kg
import numpy as np
from conftest import unpack
from reference import ReferenceBlock

WIDTH, FFW, SLOTS = 48, 70, 12

# name: heads, key heads, head width, window, cap, post norms, query and key norms
KINDS = {
    "gemma 1, one key head": dict(heads=4, keys=1, head=16),
    "gemma 1, as many key heads": dict(heads=2, keys=2, head=34),
    "gemma 2, grouped, windowed, capped": dict(
        heads=6, keys=2, head=8, window=5, cap=3.0, post=True
    ),
    "gemma 2, all seen": dict(heads=4, keys=2, head=16, cap=50.0, post=True),
    "gemma 3, windowed": dict(heads=4, keys=1, head=16, window=4, post=True, qk=True),
    "gemma 3, all seen, positions scaled": dict(
        heads=4, keys=1, head=16, post=True, qk=True, base=1e6, scaling=8.0
    ),
}


def example(kind, precision, slots=SLOTS, array=np.asarray, seed=0):
    """`(block, reference)`: a kg.Block of `array`s, and what it should compute."""
    random = np.random.default_rng(seed)
    k = dict(window=None, cap=None, post=False, qk=False, base=1e4, scaling=1.0) | KINDS[kind]
    rules = kg.Rules(
        k["heads"],
        k["keys"],
        k["head"],
        k["head"] ** -0.5,
        k["cap"],
        k["window"],
        k["base"],
        k["scaling"],
    )
    shapes = {
        "qkv": ((k["heads"] + 2 * k["keys"]) * k["head"], WIDTH),
        "output": (WIDTH, k["heads"] * k["head"]),
        "gate_up": (2 * FFW, WIDTH),
        "down": (WIDTH, FFW),
    }
    packed = {
        name: kg.pack(
            (random.standard_normal(shape) * shape[1] ** -0.5).astype("float32"), **precision
        )
        for name, shape in shapes.items()
    }
    names = ["pre_attention_norm", "pre_ffw_norm"]
    names += ["post_attention_norm", "post_ffw_norm"] * k["post"]
    norms = {name: random.normal(0, 0.3, WIDTH).astype("float32") for name in names}
    if k["qk"]:
        norms |= {
            n: random.normal(0, 0.3, k["head"]).astype("float32")
            for n in ("query_norm", "key_norm")
        }
    weights = {name: unpack(part).astype(float) for name, part in packed.items()}
    arrays = {name: kg.Packed(array(p.data), p.dtype, p.shape) for name, p in packed.items()}
    block = kg.Block(**arrays, **{n: array(w) for n, w in norms.items()}, rules=rules, epsilon=1e-5)
    # A ring need not be longer than the window.
    slots = min(slots, rules.window or slots)
    integers = precision["dtype"].startswith("int")
    return block, ReferenceBlock(weights, norms, rules, 1e-5, slots, integers)


def empty_cache(rules, batch, slots, array=np.asarray, dtype="float32"):
    slots = min(slots, rules.window or slots)
    shape = (batch, slots, rules.num_key_value_heads, rules.head_dim)
    return (
        array(np.zeros(shape, dtype)),
        array(np.zeros(shape, dtype)),
        array(np.zeros((batch, slots), "int32")),
        array(np.full((batch, slots), -1, "int32")),
        array(np.zeros(batch, "int32")),
    )


def walk(batch, lengths, seed=1):
    """Steps of a batch whose rows stop early and start a second document: `(x, index, segment)` each.

    `lengths` are tokens per step, so that prompts in chunks and single tokens are both walked.
    """
    random = np.random.default_rng(seed)
    places = np.zeros(batch, int)
    documents = np.ones(batch, int)
    for tokens in lengths:
        index, segment = np.zeros((batch, tokens), "int32"), np.zeros((batch, tokens), "int32")
        for t in range(tokens):
            for b in range(batch):
                if random.random() < 0.15:
                    continue  # padding, anywhere
                if random.random() < 0.05:
                    places[b], documents[b] = 0, documents[b] + 1
                index[b, t], segment[b, t] = places[b], documents[b]
                places[b] += 1
        yield random.standard_normal((batch, tokens, WIDTH)).astype("float32"), index, segment
