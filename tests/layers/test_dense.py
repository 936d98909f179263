"""A dense layer with adapters: what it computes, what it trains, and what it keeps.

B batch, T tokens, D and F widths, N heads of H, r rank.
"""

import keras
import numpy as np
import pytest
from conftest import close, once_but
from keras import ops

from keras_gemma.conversion.adapters import LoraOptions
from keras_gemma.layers import Dense
from keras_gemma.quantization import floats_of, form_of, quantize_layer

KINDS = {  # equation, outputs, shape of the inputs
    "heads": ("btd,ndh->btnh", (None, 4, 8), (2, 5, 32)),
    "from heads": ("btnh,nhd->btd", (None, 24), (2, 5, 4, 8)),
    "plain": ("btd,df->btf", (None, 16), (2, 5, 32)),
}
RANDOM = np.random.default_rng(0)


def layer_of(kind="heads", mode=None, options=None, **more):
    equation, outputs, shape = KINDS[kind]
    layer = Dense(equation, outputs, **more)
    layer.build(shape)
    layer._kernel.assign(RANDOM.normal(0, 0.3, layer._kernel.shape))
    if mode:
        quantize_layer(layer, form_of(mode))
    if options is not None:
        layer.add_adapter("default", options)
        for variable in layer.branches["default"].variables:
            is_length = "magnitude" in variable.name
            variable.assign(RANDOM.normal(1.0 if is_length else 0.0, 0.3, variable.shape))
    return layer


def inputs(kind="heads"):
    return RANDOM.normal(0, 1, KINDS[kind][2]).astype("float32")


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x), "float64")


def expected_kernel(layer, options):
    """W + scale A B, by the letters, and of DoRA with the lengths that were learned (its equation 5)."""
    branch = layer.branches["default"]
    a, b = numpy(branch.a), numpy(branch.b)
    heads_first = layer.equation == "btd,ndh->btnh"
    if not heads_first:
        product = np.tensordot(a, b, 1)
    else:
        product = np.stack(
            [
                (a[n] if options.by_head else a) @ (b if options.by_head else b[:, n])
                for n in range(4)
            ]
        )
    base = floats_of(layer) if layer.quantization_mode else numpy(layer._kernel)
    root = options.rank**0.5 if options.use_rslora else options.rank
    whole = base + options.alpha / root * product
    if options.use_dora:
        axes = {"btd,ndh->btnh": (1,), "btnh,nhd->btd": (0, 1), "btd,df->btf": (0,)}[layer.equation]
        lengths = np.sqrt((whole**2).sum(axes, keepdims=True))
        whole = whole / lengths * np.expand_dims(numpy(branch.magnitude), axes)
    return whole


OPTIONS = {
    "LoRA": LoraOptions(3, alpha=5),
    "rsLoRA": LoraOptions(4, alpha=5, use_rslora=True),
    "DoRA": LoraOptions(2, use_dora=True),
    "as PEFT": LoraOptions(3, by_head=False),
    "DoRA as PEFT": LoraOptions(3, alpha=4, use_dora=True, by_head=False),
}


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", once_but(OPTIONS, "rsLoRA", "DoRA as PEFT"))
def test_it_multiplies_by_the_adapted_kernel(way, kind, mode):
    options = OPTIONS[way]
    layer, x = layer_of(kind, mode, options), inputs(kind)
    expected = expected_kernel(layer, options)
    close(layer(x), np.einsum(layer.equation, x, expected), 2e-6)
    close(layer.kernel, expected, 2e-6)


def test_a_new_adapter_changes_nothing():
    for options in OPTIONS.values():
        layer, x = layer_of(), inputs()
        before = numpy(layer(x))
        layer.add_adapter("default", options)
        close(layer(x), before, 1e-6)
        assert numpy(layer.branches["default"].a).any()


def test_only_the_active_adapter_is_trained():
    layer = layer_of()
    layer.add_adapter("one", LoraOptions(2))
    layer.add_adapter("two", LoraOptions(3, use_dora=True))
    names = [variable.name for variable in layer.trainable_variables]
    assert names == ["lora_kernel_a_two", "lora_kernel_b_two", "lora_magnitude_two"]
    layer.set_adapter("one")
    names = [variable.name for variable in layer.trainable_variables]
    assert names == ["lora_kernel_a_one", "lora_kernel_b_one"]
    layer.set_adapter(None)
    assert [variable.name for variable in layer.variables] == ["kernel"]
    assert not layer.trainable_variables


def gradients(layer, x, weights):
    """Of `sum(weights * layer(x))`: by the trained variables in their order, and by the inputs."""
    variables = layer.trainable_variables

    def loss(x):
        return ops.sum(ops.convert_to_tensor(weights) * layer(x))

    backend = keras.config.backend()
    if backend == "torch":
        x = ops.convert_to_tensor(x).requires_grad_()
        loss(x).backward()
        assert layer._kernel.value.grad is None
        return [v.value.grad for v in variables], x.grad
    if backend == "tensorflow":
        import tensorflow as tf

        x = ops.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            made = loss(x)
        *by_variables, by_x = tape.gradient(made, [*(v.value for v in variables), x])
        return by_variables, by_x
    import jax

    def stateless(values, x):
        with keras.StatelessScope(state_mapping=zip(variables, values)):
            return loss(x)

    return jax.grad(stateless, (0, 1))([v.value for v in variables], ops.convert_to_tensor(x))


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
@pytest.mark.parametrize("way", ["LoRA", "as PEFT", "DoRA"])
def test_gradients_are_those_of_the_formula(way, mode):
    """PyTorch's, of `m / |W + s A B| (W + s A B)` with the lengths held constant, in float64."""
    torch = pytest.importorskip("torch")
    options = OPTIONS[way]
    layer, x = layer_of("heads", mode, options), inputs()
    weights = RANDOM.normal(0, 1, (2, 5, 4, 8)).astype("float32")
    leaves = [torch.tensor(numpy(v), requires_grad=True) for v in layer.trainable_variables]
    base = floats_of(layer) if mode else numpy(layer._kernel)
    x64 = torch.tensor(x.astype("float64"), requires_grad=True)
    a, b, *magnitude = leaves
    equation = "ndr,rh->ndh" if options.by_head else "dr,rnh->ndh"
    kernel = torch.tensor(base) + options.scale * torch.einsum(equation, a, b)
    if magnitude:
        lengths = kernel.detach().square().sum(1).sqrt()
        kernel = (magnitude[0] / lengths)[:, None] * kernel
    (torch.tensor(weights) * torch.einsum("btd,ndh->btnh", x64, kernel)).sum().backward()
    by_variables, by_x = gradients(layer, x, weights)
    for got, leaf in zip(by_variables, leaves, strict=True):
        close(got, leaf.grad.numpy(), 1e-5)
    close(by_x, x64.grad.numpy(), 1e-5)


def test_dropout_is_of_the_branch_alone_and_of_training_alone():
    layer, x = layer_of("plain", options=LoraOptions(2, dropout=0.5)), inputs("plain")
    plain = numpy(ops.einsum(layer.equation, x, layer._kernel))
    with_branch = numpy(layer(x))
    one, other = (numpy(layer(x, training=True)) - plain for _ in range(2))
    assert np.array_equal(numpy(layer(x, training=False)), with_branch)
    assert not np.allclose(one, with_branch - plain, rtol=0.01) and not np.allclose(
        one, other, rtol=0.01
    )
    drawn = [numpy(layer(x, training=True)) - plain for _ in range(400)]
    close(np.mean(drawn, axis=0), with_branch - plain, 0.15)


def test_merged_it_computes_the_same_and_unmerged_has_its_bits_again():
    for way, options in OPTIONS.items():
        layer, x = layer_of(options=options), inputs()
        kernel, before = numpy(layer._kernel), numpy(layer(x))
        layer.merge()
        assert layer.active is None and not layer.trainable_variables, way
        close(layer(x), before, 1e-5)
        layer.unmerge()
        assert np.array_equal(numpy(layer._kernel), kernel)
        assert np.array_equal(numpy(layer(x)), before)


def test_weights_are_saved_as_keras_saves_them():
    """Merged; and what is loaded lets the adapter begin anew."""
    layer, x = layer_of(options=OPTIONS["DoRA"]), inputs()
    store, before = {}, numpy(layer(x))
    layer.save_own_variables(store)
    assert [*store] == ["0"]
    plain = layer_of()
    plain.load_own_variables(store)
    close(plain(x), before, 2e-6)
    layer.load_own_variables(store)
    close(layer(x), before, 2e-6)
    assert not numpy(layer.lora_kernel_b).any() and numpy(layer.lora_kernel_a).any()


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_whole_numbers_are_rounded_anew_when_they_are_saved_with_an_adapter(mode):
    layer, plain, x = (
        layer_of("plain", mode, OPTIONS["LoRA"]),
        layer_of("plain", mode),
        inputs("plain"),
    )
    store, before = {}, numpy(layer(x))
    with pytest.warns(
        UserWarning, match=f"is rounded into the {mode} weights .* save_lora_weights"
    ):
        layer.save_own_variables(store)
    plain.load_own_variables(store)
    close(plain(x), before, 0.01 if mode == "int8" else 0.15)
    with pytest.raises(ValueError, match="not rounded into whole numbers.*save_lora_weights"):
        layer_of("plain", mode, OPTIONS["DoRA"]).save_own_variables({})


def test_adapters_beside_bfloat16_are_float32():
    layer = layer_of(options=LoraOptions(2), dtype="bfloat16")
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}
    assert layer._kernel.dtype == "bfloat16"
    assert keras.backend.standardize_dtype(layer(inputs()).dtype) == "bfloat16"


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"rank": 0}, "rank must be a whole number of 1 or more, not 0"),
        ({"rank": 2.5}, "not 2.5"),
        ({"rank": 2, "alpha": float("nan")}, "alpha must be a number above 0, not nan"),
        ({"rank": 2, "alpha": 0}, "not 0"),
        ({"rank": 2, "dropout": 1.0}, "dropout must be 0 or more and less than 1, not 1.0"),
    ],
)
def test_impossible_options_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        LoraOptions(**wrong)


@pytest.mark.once
def test_an_adapter_of_the_same_name_is_refused():
    layer = layer_of(options=LoraOptions(2))
    with pytest.raises(ValueError, match="has an adapter 'default'"):
        layer.enable_lora(3)
