"""What was compiled for a model goes with it."""

import gc

import keras
import numpy as np
import pytest
from conftest import SIZES

from keras_gemma import GemmaBackbone, GemmaCausalLM

ROWS = np.random.default_rng(0).integers(1, 90, (4, 9))


def graphs():
    """How many graphs of TensorFlow are in memory."""
    from tensorflow.python.framework.func_graph import FuncGraph

    gc.collect()
    return sum(issubclass(type(thing), FuncGraph) for thing in gc.get_objects())


def use(kind):
    """Trains, evaluates or generates with a model, and lets go of it."""
    model = GemmaCausalLM(GemmaBackbone(**SIZES))
    x = {"token_ids": ROWS[:, :-1], "padding_mask": np.ones_like(ROWS[:, 1:])}
    if kind == "generated":
        model.generate(x, max_length=12, stop_token_ids=None)
        return
    if kind == "adapters on whole numbers":
        model.quantize("int8")
        model.backbone.enable_lora(2)
    model.compile(remat=True)
    model.fit(x, ROWS[:, 1:], batch_size=2, verbose=0)
    model.evaluate(x, ROWS[:, 1:], batch_size=2, verbose=0)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="has no such graphs")
@pytest.mark.parametrize("kind", ["all weights", "adapters on whole numbers", "generated"])
def test_no_graph_stays(kind):
    use(kind)
    before = graphs()
    use(kind)
    assert graphs() == before
