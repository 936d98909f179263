"""`fit` and `generate` on eight simulated devices do what they do on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="keras.distribution works on JAX only"
)

# One line a case: how a weight is cut, written out by hand. Sizes: 512 words, width 64, branch
# 128, 8 query heads of 16; 1, 4 or 8 key-value heads.
SHARDS = {
    "8x1": {"embeddings": [512, 8], "query": [8, 8, 16], "output": [8, 16, 8], "gating": [8, 128]},
    "2x4": {
        "embeddings": [128, 32],
        "query": [2, 32, 16],
        "output": [2, 16, 32],
        "gating": [32, 32],
    },
    "1x8": {
        "embeddings": [64, 64],
        "query": [1, 64, 16],
        "output": [1, 16, 64],
        "gating": [64, 16],
    },
}
KEYS = {  # one head can't be split, nor four among eight
    "multi-query": {"8x1": [1, 8, 16], "2x4": [1, 32, 16], "1x8": [1, 64, 16]},
    "grouped": {"8x1": [4, 8, 16], "2x4": [1, 32, 16], "1x8": [4, 64, 16]},
    "multi-head": {"8x1": [8, 8, 16], "2x4": [2, 32, 16], "1x8": [1, 64, 16]},
}


@pytest.fixture(scope="module")
def seen():
    script = Path(__file__).with_name("eight_devices.py")
    # In addition to how the test command compiles.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment |= {"XLA_FLAGS": flags, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:keras_gemma", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=[f"{heads} {mesh}" for heads in KEYS for mesh in SHARDS])
def case(request, seen):
    heads, mesh = request.param.split()
    return heads, mesh, seen[request.param]


def test_weights_are_cut_as_planned(case):
    # Without this the rest proves nothing: a distribution that got lost computes the same.
    heads, mesh, saw = case
    shards, kinds = saw["shards"], SHARDS[mesh]
    assert shards["token_embedding/embeddings"] == kinds["embeddings"]
    for i in range(2):
        block = f"decoder_block_{i}/"
        assert shards[block + "attention/query/kernel"] == kinds["query"]
        assert shards[block + "attention/key/kernel"] == KEYS[heads][mesh]
        assert shards[block + "attention/value/kernel"] == KEYS[heads][mesh]
        assert shards[block + "attention/attention_output/kernel"] == kinds["output"]
        assert shards[block + "ffw_gating/kernel"] == kinds["gating"]
        assert shards[block + "ffw_gating_2/kernel"] == kinds["gating"]
        assert shards[block + "ffw_linear/kernel"] == kinds["gating"][::-1]
        assert shards[block + "pre_attention_norm/scale"] == [64]


def test_the_optimizer_is_cut_like_the_weights(case):
    _, _, saw = case
    assert len(saw["slots"]) == 2 * len(saw["shards"])
    for path, shape in saw["shards"].items():
        for slot in ("momentum", "velocity"):
            assert saw["slots"][f"{path.replace('/', '_')}_{slot}"] == shape


def test_three_steps_train_as_on_one_device(case):
    _, _, saw = case
    assert len(saw["losses"]) == 3 and saw["losses"][2] < saw["losses"][0]
    np.testing.assert_allclose(saw["losses"], saw["losses_alone"], rtol=1e-6)
    assert saw["weights"] <= 5e-5


def test_greedy_text_is_that_of_one_device(case):
    _, _, saw = case
    assert saw["same_text"]
    assert saw["different_ids"] >= 20
