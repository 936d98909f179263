"""AdamW does what PyTorch's does, and moves weights of any dtype."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gemma.optimizers import AdamW


def gradients(steps, shape=(7, 5), seed=1):
    return np.random.default_rng(seed).normal(0, 1, (steps, *shape)).astype("float32")


def weight(dtype="float32", name="kernel"):
    value = np.random.default_rng(0).normal(0, 1, (7, 5))
    return keras.Variable(value.astype("float32"), dtype=dtype, name=name)


def trained(optimizer, variable, steps, seed=1):
    for gradient in gradients(steps, seed=seed):
        optimizer.apply([ops.convert_to_tensor(gradient, variable.dtype)], [variable])
    return ops.convert_to_numpy(ops.cast(variable.value, "float32"))


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.0}, {"beta_1": 0.5, "beta_2": 0.95, "epsilon": 1e-3}]
)
def test_steps_are_those_of_pytorch(options):
    torch = pytest.importorskip("torch")
    options = {"weight_decay": 0.1, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, **options}
    parameter = torch.nn.Parameter(torch.tensor(ops.convert_to_numpy(weight().value)))
    reference = torch.optim.AdamW(
        [parameter],
        lr=1e-2,
        betas=(options["beta_1"], options["beta_2"]),
        eps=options["epsilon"],
        weight_decay=options["weight_decay"],
    )
    for gradient in gradients(20):
        parameter.grad = torch.tensor(gradient)
        reference.step()
    got = trained(AdamW(1e-2, **options), weight(), 20)
    assert np.abs(got - parameter.detach().numpy()).max() <= 1e-6


def test_defaults_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.optim.AdamW([torch.zeros(1)]).defaults, AdamW()
    assert (ours.beta_1, ours.beta_2) == theirs["betas"]
    assert ours.epsilon == theirs["eps"]
    assert ours.weight_decay == theirs["weight_decay"]
    assert float(ours.learning_rate) == pytest.approx(theirs["lr"])


def test_bfloat16_weights_move_as_float32_ones_do():
    low, high = weight("bfloat16"), weight()
    start = ops.convert_to_numpy(high.value)
    optimizer = AdamW(1e-2)
    got, expected = trained(optimizer, low, 10), trained(AdamW(1e-2), high, 10)
    assert {v.dtype for v in optimizer.variables[2:]} == {"float32"}
    assert low.dtype == "bfloat16"
    assert np.corrcoef((got - start).ravel(), (expected - start).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_accumulated_gradients_equal_one_step_on_their_mean(dtype):
    variable, whole = weight(dtype), weight(dtype)
    got = trained(AdamW(1e-2, gradient_accumulation_steps=2), variable, 2)
    given = [ops.cast(ops.convert_to_tensor(g, dtype), "float32") for g in gradients(2)]
    AdamW(1e-2).apply([(given[0] + given[1]) / 2], [whole])
    expected = ops.convert_to_numpy(ops.cast(whole.value, "float32"))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_clipping_by_the_global_norm_scales_all_gradients_alike():
    pair = [weight(), weight(name="other")]
    both = [gradients(1)[0] * 100, gradients(1, seed=2)[0] * 100]
    norm = np.sqrt(sum((g**2).sum() for g in both))
    expected = [weight(), weight(name="other")]
    # A large epsilon, or the scale of a gradient would cancel out.
    options = {"learning_rate": 1e-1, "epsilon": 1.0}
    AdamW(global_clipnorm=1.0, **options).apply(map_tensors(both), pair)
    AdamW(**options).apply(map_tensors(g / norm for g in both), expected)
    for got, awaited in zip(pair, expected):
        np.testing.assert_allclose(
            ops.convert_to_numpy(got.value), ops.convert_to_numpy(awaited.value), atol=1e-6
        )


def test_what_is_no_norm_clips_nothing():
    got, expected = (
        trained(AdamW(1e-2, global_clipnorm=norm), weight(), 2) for norm in (-1.0, None)
    )
    np.testing.assert_array_equal(got, expected)


def map_tensors(arrays):
    return [ops.convert_to_tensor(a.astype("float32")) for a in arrays]


def test_names_excluded_from_decay_are_left_alone():
    variables = [weight(name="kernel"), weight(name="scale")]
    before = ops.convert_to_numpy(variables[0].value)
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["scale"])
    optimizer.apply([ops.zeros((7, 5)), ops.zeros((7, 5))], variables)
    np.testing.assert_allclose(ops.convert_to_numpy(variables[0].value), before * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(variables[1].value), before)


def test_state_goes_through_a_file_of_keras(tmp_path):
    def made():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(
            AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 10), global_clipnorm=1.0), "mse"
        )
        return model

    x, y = gradients(1, (8, 4))[0], gradients(1, (8, 3))[0]
    model = made()
    model.fit(x, y, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    losses = [
        m.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"] for m in (model, again)
    ]
    assert losses[0] == losses[1]


def test_fit_lowers_the_loss_of_a_bfloat16_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype="bfloat16")])
    model.compile(AdamW(3e-2), "mse")
    x = gradients(1, (64, 4))[0]
    losses = model.fit(x, x[:, :3], epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


def test_a_gradient_of_a_lookup_is_taken():
    model = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(9, 2)])
    model.compile(AdamW(1e-2), "mse")
    before = ops.convert_to_numpy(model.layers[0].embeddings.value).copy()
    model.fit(np.array([[1, 2, 2]]), np.ones((1, 3, 2)), verbose=0)
    moved = ops.convert_to_numpy(model.layers[0].embeddings.value) != before
    assert moved[[1, 2]].all()


@pytest.mark.parametrize(
    "options", [{"beta_1": 1.0}, {"beta_2": -0.1}, {"epsilon": -1.0}, {"weight_decay": -1.0}]
)
def test_numbers_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AdamW(**options)
