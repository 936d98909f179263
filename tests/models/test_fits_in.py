"""What `fits_in` tells, against what is really there."""

import keras
import numpy as np
import pytest
from conftest import SIZES

import keras_gemma
from keras_gemma import GemmaBackbone, GemmaCausalLM, fits_in
from keras_gemma.optimizers import AdamW


def model(dtype="float32", num_layers=SIZES["num_layers"], **compiled):
    sizes = {**SIZES, "num_layers": num_layers}
    model = GemmaCausalLM(GemmaBackbone(**sizes, dtype=dtype))
    model.compile(**compiled)
    return model


def stepped(model):
    ids = np.ones((2, 8), "int32")
    model.train_on_batch({"token_ids": ids, "padding_mask": ids}, ids)
    return model


def test_weights_gradients_and_state_are_counted_to_the_byte():
    parameters = model().count_params()
    told = fits_in(model(), "1GB", sequence_length=8)
    assert (told.weights, told.gradients) == (4 * parameters, 4 * parameters)
    made = sum(int(np.prod(v.shape)) * 4 for v in stepped(model()).optimizer.variables)
    assert told.optimizer == pytest.approx(made, rel=0.01)


def test_lora_takes_gradients_and_state_of_its_matrices_only():
    with_lora = model()
    with_lora.backbone.enable_lora(2)
    with_lora.compile()
    told, plain = (fits_in(m, "1GB", sequence_length=8) for m in (with_lora, model()))
    assert told.gradients == sum(4 * int(np.prod(v.shape)) for v in with_lora.trainable_variables)
    assert told.optimizer < plain.optimizer / 5
    assert told.activations < plain.activations
    assert told.head < plain.head


def test_bfloat16_remat_and_smaller_state_take_less():
    low = fits_in(model("bfloat16"), "1GB", sequence_length=64)
    full = fits_in(model(), "1GB", sequence_length=64)
    assert low.weights == full.weights // 2
    assert low.activations < full.activations
    deep, again = (
        fits_in(model(num_layers=4, remat=remat), "1GB", sequence_length=64)
        for remat in (False, True)
    )
    assert again.activations < deep.activations / 2
    small = fits_in(model(optimizer=AdamW(state_dtype="bfloat16")), "1GB", sequence_length=64)
    assert small.optimizer == pytest.approx(full.optimizer / 2, rel=0.01)


def test_the_largest_batch_fits_and_one_more_does_not():
    m = model()
    largest = fits_in(m, 10**7, sequence_length=64).largest_batch
    assert largest > 1
    assert fits_in(m, 10**7, sequence_length=64, batch_size=largest).fits
    assert not fits_in(m, 10**7, sequence_length=64, batch_size=largest + 1).fits
    assert fits_in(m, 1000, sequence_length=64).largest_batch == 0


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch tells what it keeps")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora, length", [(0, 64), (0, 256), (8, 256)])
def test_activations_are_as_many_as_pytorch_keeps_and_not_half_as_many_more(dtype, lora, length):
    import torch

    sizes = dict(SIZES, hidden_dim=160, intermediate_dim=1024, head_dim=64)
    m = GemmaCausalLM(GemmaBackbone(**sizes, dtype=dtype))
    if lora:
        m.backbone.enable_lora(lora)
    parameters = {p.untyped_storage().data_ptr() for p in m.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no other takes its place
        return tensor

    ids = torch.ones((2, length), dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        m.backbone({"token_ids": ids, "padding_mask": ids}, training=True)
    told = fits_in(m, "1GB", sequence_length=length, batch_size=2).activations
    assert 0.95 * sum(kept.values()) <= told <= 1.5 * sum(kept.values())


@pytest.mark.parametrize("memory", ["", "much", "16TB of it", 0, -1, "0GB", None])
def test_memory_that_is_none_is_refused(memory):
    with pytest.raises(ValueError, match="'16GB'"):
        fits_in(model(), memory, sequence_length=8)


def test_units_and_a_length_from_the_preprocessor():
    m = keras_gemma.GemmaCausalLM.from_preset("gemma_tiny_en")
    assert fits_in(m, "2 GiB").memory == 2**31
    assert "largest is" in str(fits_in(m, "16GB"))
    with pytest.raises(ValueError, match="sequence_length"):
        fits_in(model(), "1GB")
