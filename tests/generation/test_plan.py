"""The plan for decoding: the same numbers as the layers, and never old ones."""

import functools

import keras
import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but
from keras import ops

from keras_gemma import Gemma3Backbone, Gemma3CausalLM, GemmaBackbone, GemmaCausalLM
from keras_gemma.generation import empty_caches, kernel_plan, kernels, plan, weights_for
from keras_gemma.generation.compiled import compiler, traits
from keras_gemma.generation.layouts import (
    BFloat16Blocks,
    InputMajor,
    OutputBlocks,
    OutputMajor,
    laid_out,
)
from keras_gemma.generation.plan import is_plain
from keras_gemma.layers import Positions
from keras_gemma.models.quantizable import quantizable_layers
from keras_gemma.quantization import floats_of

KINDS = {
    "multi-query": (GemmaBackbone, {"num_key_value_heads": 1}),
    "grouped": (GemmaBackbone, {}),
    "Gemma 2": (
        GemmaBackbone,
        {
            "use_post_attention_norm": True,
            "use_post_ffw_norm": True,
            "attention_logit_soft_cap": 50.0,
            "final_logit_soft_cap": 30.0,
            "use_sliding_window_attention": True,
            "sliding_window_size": 4,
        },
    ),
    "Gemma 3": (Gemma3Backbone, {"image_size": None, "sliding_window_size": 4}),
}
IDS = np.array([[5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 6, 7, 8, 9]], "int32")


def model(kind="grouped", dtype="float32", plan="auto", **more):
    made, options = KINDS[kind]
    options = {**options, **more}
    task = GemmaCausalLM if made is GemmaBackbone else Gemma3CausalLM
    lm = task(backbone=loud(made(**{**SIZES, **options}, dtype=dtype)), preprocessor=None)
    lm.compile(sampler="greedy", plan=plan, optimizer=keras.optimizers.SGD(0.5))
    return lm


def passes(stack, eager=False):
    """Logits of a prompt of six and of one token more, by way of caches, compiled as the engine does.

    Compiled, bfloat16 is rounded where one fused operation ends, and not after each step of a formula.
    """
    place = np.arange(7, dtype="int32")[None].repeat(2, 0)
    caches = empty_caches(stack.config, 2, 16, stack.token_embedding_dtype)

    def read(ids_BT, positions, caches):
        hidden, caches = stack.hidden_states(ids_BT, positions, caches)
        return ops.cast(stack.logits(hidden), "float32"), caches

    program, made = compiler((), eager=eager).program(read), []
    for part in (slice(0, 6), slice(6, 7)):
        positions = Positions(*(ops.convert_to_tensor(x[:, part]) for x in (place, place * 0 + 1)))
        logits, caches = program(ops.convert_to_tensor(IDS[:, part]), positions, caches)
        made.append(ops.convert_to_numpy(logits))
    return np.concatenate(made, axis=1)


def continued(lm):
    inputs = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
    return lm.generate(inputs, max_length=14, stop_token_ids=None)["token_ids"]


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("kind", once_but(KINDS, "Gemma 3"))
def test_a_plan_computes_what_the_layers_do(kind, dtype, bound):
    # The factor of the embedding, 4, is a bfloat16, so that a float32 model has the same.
    backbone = model(kind, dtype, hidden_dim=16).backbone
    made, expected = logits_of_plan(backbone), passes(Stack(backbone.stack, dtype))
    if kernels.found().used:  # their activations are float32 whatever the weights are
        wide = model(kind, hidden_dim=16).backbone
        for variable, rounded in zip(wide.variables, backbone.variables):
            variable.assign(ops.cast(ops.convert_to_tensor(rounded), "float32"))
        bound, expected = 1e-5, passes(Stack(wide.stack, "float32"))
    close(made, expected, bound)


def logits_of_plan(backbone):
    planned = weights_for(backbone.stack, backbone.variables, True)
    planned.refresh()
    assert planned.arrays
    dtype = "float32" if kernels.found().used else backbone.stack.token_embedding.compute_dtype
    return passes(Stack(planned.stack(planned.arrays), dtype))


@pytest.mark.parametrize("mode", once_but(["int8", "int4"], "int4"))
@pytest.mark.parametrize("kind", once_but(KINDS, "Gemma 3"))
def test_a_plan_of_whole_numbers_computes_what_their_floats_do(kind, mode):
    # 32 inputs for each of 4 heads: int4 then has whole numbers of all layers (quantization/layers.py).
    backbone = model(kind, hidden_dim=128).backbone
    floats = model(kind, hidden_dim=128).backbone
    backbone.quantize(mode)
    for layer, quantized in zip(*map(quantizable_layers, (floats, backbone))):
        variable = layer.embeddings if hasattr(layer, "embeddings") else layer.kernel
        variable.assign(floats_of(quantized))
    if not kernels.found().used:
        close(logits_of_plan(backbone), passes(Stack(floats.stack, "float32"), eager=True))
        return
    round_activations(floats)
    awaited = passes(Stack(floats.stack, "float32"), eager=True)
    texts = zip(logits_of_plan(backbone), awaited, strict=True)
    errors = [np.abs(got - awaited).max() / np.abs(awaited).max() for got, awaited in texts]
    # In a text, an activation half way between two steps may be rounded to either.
    assert min(errors) <= 1e-5 and max(errors) <= 2e-2, errors


@pytest.mark.skipif(kernels.found().used, reason="the kernels' activations are float32")
def test_a_plan_of_whole_numbers_keeps_to_the_activations_of_its_model():
    backbone = model(dtype="bfloat16", hidden_dim=128).backbone
    backbone.quantize("int8")
    planned = weights_for(backbone.stack, backbone.variables, True)
    planned.refresh()
    vectors = planned.stack(planned.arrays).token_embedding(ops.convert_to_tensor(IDS))
    assert keras.backend.standardize_dtype(vectors.dtype) == "bfloat16"


def round_activations(backbone):
    """Let all products read activations as the kernels do: 8 bits each, and a scale for every 32."""

    def rounded(x):
        values = ops.convert_to_numpy(x)
        flat = values.reshape(-1, int(np.prod(values.shape[2:])))
        blocks = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32))).reshape(len(flat), -1, 32)
        largest = np.abs(blocks).max(axis=-1, keepdims=True)
        whole = np.rint(blocks * (np.float32(127) / np.maximum(largest, 1e-30)))
        blocks = whole * (largest / np.float32(127))
        flat = blocks.reshape(len(flat), -1)[:, : flat.shape[1]]
        return ops.convert_to_tensor(flat.reshape(values.shape))

    def reading(call, x, **keywords):
        is_product = keywords.get("reverse", True)  # an embedding that is looked up is none
        return call(rounded(x) if is_product else x, **keywords)

    for layer in quantizable_layers(backbone):
        keywords = {} if hasattr(layer, "kernel") else {"reverse": False}
        layer.call = functools.partial(reading, layer.call, **keywords)


class Stack:
    """A decoder stack that also tells the dtype of its caches."""

    def __init__(self, stack, dtype):
        self.config, self.token_embedding_dtype = stack.config, dtype
        self.hidden_states, self.logits = stack.hidden_states, stack.logits


def assigned(lm):
    kernel = lm.backbone.stack.blocks[0].attention.value_dense.kernel
    kernel.assign(-1.5 * ops.convert_to_tensor(kernel))


def added_to(lm):
    for variable in lm.backbone.variables:
        variable.assign_add(-2.5 * ops.convert_to_tensor(variable))


def set_at_once(lm):
    lm.set_weights([-1.1 * np.asarray(value) for value in lm.get_weights()])


def trained(lm):
    lm.train_on_batch({"token_ids": IDS, "padding_mask": np.ones_like(IDS)}, IDS)


def with_lora(lm):
    layer = lm.backbone.stack.blocks[0].ffw_linear
    layer.enable_lora(2)
    layer.lora_kernel_a.assign(np.ones(layer.lora_kernel_a.shape))
    layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.5))


WAYS = [assigned, added_to, set_at_once, trained, with_lora]


@pytest.mark.parametrize("change", once_but(WAYS, added_to, trained, with_lora))
def test_the_next_text_follows_the_new_weights(change):
    with_plan, without = model(num_layers=1), model(num_layers=1, plan="none")
    without.set_weights(with_plan.get_weights())
    before = continued(with_plan)
    assert np.array_equal(before, continued(without))
    for lm in (with_plan, without):
        change(lm)
    after = continued(with_plan)
    assert np.array_equal(after, continued(without))
    assert not np.array_equal(after, before)


def test_loaded_weights_are_followed(tmp_path):
    lm, other = model(), model("grouped")
    other.set_weights([-np.asarray(value) for value in other.get_weights()])
    before = continued(lm)
    other.save_weights(tmp_path / "other.weights.h5")
    lm.load_weights(tmp_path / "other.weights.h5")
    assert np.array_equal(continued(lm), continued(other))
    assert not np.array_equal(continued(lm), before)


def test_training_begins_without_the_plan():
    lm = model()
    before = continued(lm)
    weights, found = lm._generation_engine.weights, []
    assert weights.arrays
    told = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: found.append(weights.arrays))
    lm.fit({"token_ids": IDS, "padding_mask": np.ones_like(IDS)}, IDS, callbacks=[told], verbose=0)
    assert found == [()]
    assert not np.array_equal(continued(lm), before)


def test_layers_of_ones_own_are_called_and_not_copied():
    backbone = model().backbone
    assert is_plain(backbone.stack)

    class Own(keras.layers.EinsumDense):
        pass

    kind = type(backbone.stack.blocks[0].gating_ffw)
    backbone.stack.blocks[0].gating_ffw.__class__ = Own
    assert not is_plain(backbone.stack)
    backbone.stack.blocks[0].gating_ffw.__class__ = kind
    backbone.stack.blocks[1].ffw_linear.quantize("int8")
    assert not is_plain(backbone.stack)


def test_a_plan_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="auto, none"):
        model(plan="fast")


@pytest.mark.parametrize("rows", [1, 3, 9, 17])
def test_all_layouts_multiply_alike(rows):
    random = np.random.default_rng(0)
    weights = ops.cast(ops.convert_to_tensor(random.normal(0, 1, (128, 24))), "bfloat16")
    x = ops.cast(ops.convert_to_tensor(random.normal(0, 1, (rows, 1, 24))), "bfloat16")
    expected = np.einsum("mtk,nk->mtn", *(np.asarray(ops.cast(v, "float32")) for v in (x, weights)))
    made = [OutputMajor(weights), OutputBlocks(weights), InputMajor(ops.transpose(weights))]
    if traits().widens_bfloat16:
        made.append(BFloat16Blocks(ops.reshape(ops.view(weights, "uint16"), (2, 64, 24))))
    for layout in made:
        got = np.asarray(ops.convert_to_numpy(ops.cast(layout(x), "float32")))
        assert got.shape == expected.shape
        close(got, expected, 1e-2)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="what of it is PyTorch's")
def test_matrices_that_lie_as_they_should_are_in_memory_once():
    if kernels.found().used:
        pytest.skip("kernels have panels of their own")
    stack = model().backbone.stack
    for block, held in zip(stack.blocks, plan.arrays(stack).blocks, strict=True):
        shared = (
            (block.attention.output_dense, held.attention_output),
            (block.ffw_linear, held.feed_forward_output),
        )
        for layer, layout in shared:
            assert layout.weights_KN.data_ptr() == layer.kernel.value.data_ptr()


@pytest.mark.skipif(keras.config.backend() != "jax", reason="what JAX traces")
@pytest.mark.parametrize("kind, forms", [("grouped", 1), ("Gemma 2", 2)])
def test_blocks_of_one_form_are_traced_once(kind, forms, monkeypatch):
    traced = []
    made_by = kernel_plan if kernels.found().used else plan
    call = made_by._call_block
    monkeypatch.setattr(made_by, "_call_block", lambda *a: traced.append(a[1]) or call(*a))
    backbone = model(kind, num_layers=6).backbone
    logits_of_plan(backbone)
    assert len(traced) == 2 * forms  # for the prompt and for the token after it


@pytest.mark.parametrize("outputs", [512, 640])
def test_a_matrix_is_laid_out_as_one_row_is_read_fastest(outputs):
    random = np.random.default_rng(1)
    given, x = random.normal(size=(outputs, 24)), random.normal(size=(1, 1, 24))
    weights, x = (ops.convert_to_tensor(a, "float32") for a in (given, x))
    turned = ops.transpose(ops.convert_to_tensor(given.T.copy(), "float32"))  # on PyTorch a view
    made = laid_out(weights), laid_out(turned)
    for layout in made:
        close(layout(x), ops.convert_to_numpy(x) @ given.T, 1e-6)
    if keras.config.backend() == "torch":
        kinds = [OutputMajor if outputs == 512 else InputMajor, InputMajor]
        assert [*map(type, made)] == kinds
        assert made[1].weights_KN.data_ptr() == turned.data_ptr()
