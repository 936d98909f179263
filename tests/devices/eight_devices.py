"""Trains and generates on one and on eight simulated devices; prints what it saw as JSON.

Run by test_eight_devices.py in a process of its own: the number of devices is fixed when JAX
starts, and a distribution left behind would change other tests.
"""

import json
import sys

import keras
import numpy as np

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.optimizers import AdamW

MESHES = [(8, 1), (2, 4), (1, 8)]
KEY_VALUE_HEADS = {"multi-query": 1, "grouped": 4, "multi-head": 8}
ROWS, LENGTH, STEPS, VOCABULARY = 16, 16, 3, 512


def build(key_value_heads):
    sizes = {"num_layers": 2, "num_query_heads": 8, "num_key_value_heads": key_value_heads}
    sizes |= {"hidden_dim": 64, "intermediate_dim": 256, "head_dim": 16}
    backbone = GemmaBackbone(vocabulary_size=VOCABULARY, **sizes)
    model = GemmaCausalLM(backbone)
    # Adam makes a step of any gradient, rounding included, so differences count in steps: 7.7e-6
    # at this rate, 7.7e-5 at 1e-2. A gradient summed wrongly over devices shows as a whole step.
    model.compile(AdamW(1e-3))
    random = np.random.default_rng(0)
    for variable in backbone.weights:
        spread = 0.3 if variable.path.endswith("scale") else 0.15
        variable.assign(random.normal(0, spread, variable.shape).astype("float32"))
    return model


def run(model):
    """Losses of three steps, the weights after them, and text of those."""
    random = np.random.default_rng(1)
    ids = random.integers(1, VOCABULARY, (ROWS, LENGTH + 1)).astype("int32")
    inputs = {"token_ids": ids[:, :-1], "padding_mask": np.ones((ROWS, LENGTH), "int32")}
    weights = (random.random((ROWS, LENGTH)) < 0.8).astype("float32")
    prompts = {"token_ids": ids[:, :8].copy(), "padding_mask": np.ones((ROWS, 8), "int32")}
    prompts["padding_mask"][::3, 5:] = 0  # ragged
    losses = []
    for _ in range(STEPS):
        fitted = model.fit(
            inputs, ids[:, 1:], sample_weight=weights, batch_size=ROWS, shuffle=False, verbose=0
        )
        losses += fitted.history["loss"]
    text = model.generate(prompts, max_length=16, stop_token_ids=None)
    return {
        "losses": losses,
        "text": text["token_ids"].tolist(),
        "weights": {v.path: np.asarray(v.value) for v in model.backbone.weights},
    }


def shard(value):
    return list(value.sharding.shard_shape(value.shape))


def compare(mesh, config, alone):
    devices = keras.distribution.DeviceMesh(mesh, ("batch", "model"))
    layout_map = GemmaBackbone.get_layout_map(devices, config=config)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    )
    model = build(config.num_key_value_heads)
    seen = run(model)
    keras.distribution.set_distribution(None)
    differences = [np.abs(seen["weights"][k] - alone["weights"][k]).max() for k in alone["weights"]]
    slots = {
        v.path.split("/")[-1]: shard(v.value)
        for v in model.optimizer.variables
        if v.path.endswith(("momentum", "velocity"))
    }
    return {
        "losses": seen["losses"],
        "losses_alone": alone["losses"],
        "same_text": seen["text"] == alone["text"],
        "different_ids": len(set(np.ravel(seen["text"]).tolist())),
        "weights": float(max(differences)),
        "shards": {v.path: shard(v.value) for v in model.backbone.weights},
        "slots": slots,
    }


def main():
    assert len(keras.distribution.list_devices()) == 8
    seen = {}
    for name, heads in KEY_VALUE_HEADS.items():
        model = build(heads)
        alone = run(model)
        for mesh in MESHES:
            print(name, mesh, file=sys.stderr, flush=True)
            seen[f"{name} {mesh[0]}x{mesh[1]}"] = compare(mesh, model.backbone.config, alone)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
