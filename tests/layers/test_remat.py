"""Blocks that are computed again give the same gradients, dropout and all, and count as one."""

import gc

import keras
import numpy as np
import pytest
from conftest import SIZES, WINDOWED, close, loud, once_but

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.layers import remat


def trained(again, lora_dropout=None, **options):
    keras.utils.set_random_seed(3)
    model = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED, **options), scale=0.2))
    if lora_dropout is not None:
        targets = ["query", "value", "ffw_gating", "ffw_gating_2", "ffw_linear"]
        model.backbone.enable_lora(2, targets, dropout=lora_dropout)
    model.compile(optimizer=keras.optimizers.SGD(0.1), remat=again)
    ids = np.random.default_rng(1).integers(1, 96, (2, 13)).astype("int32")
    inputs = {"token_ids": ids[:, :-1], "padding_mask": np.ones((2, 12), "int32")}
    for _ in range(2):
        model.train_on_batch(inputs, ids[:, 1:])
    return model


@pytest.mark.parametrize(
    "options",
    once_but([{}, {"dropout": 0.5}, {"lora_dropout": 0.5}], {"lora_dropout": 0.5}),
    ids=str,
)
def test_weights_after_two_steps_are_the_same(options, monkeypatch):
    plain, again, blocks = trained(False, **options), remat._computed_again, []

    def counting(function, *arrays):
        blocks.append(function)
        return again(function, *arrays)

    monkeypatch.setattr(remat, "_computed_again", counting)
    model = trained(True, **options)
    assert len(blocks) >= SIZES["num_layers"]
    for variable, other in zip(model.variables, plain.variables):
        close(variable, other, 1e-6)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others free what they made")
def test_what_was_computed_again_does_not_wait_for_the_garbage_collector():
    """But for what Keras flattens, which is narrow here; and gradients live on."""
    import torch

    def alive():
        return {id(x): x for x in gc.get_objects() if isinstance(x, torch.Tensor)}

    model = GemmaCausalLM(GemmaBackbone(**{**SIZES, "intermediate_dim": 4096, "num_layers": 4}))
    model.compile(remat=True)
    ids = np.ones((16, 64), "int32")
    batch = {"token_ids": ids, "padding_mask": ids}, ids
    model.train_on_batch(*batch)
    gc.collect()
    before = alive()
    gc.disable()
    try:
        model.train_on_batch(*batch)
        left = sum(x.nbytes for at, x in alive().items() if at not in before)
    finally:
        gc.enable()
    assert left < 4 * 16 * 64 * 2048  # one of four blocks' many wide activations


def test_it_is_kept_in_a_saved_model(tmp_path):
    trained(True).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.remat and all(block.remat for block in loaded.backbone.transformer_layers)
