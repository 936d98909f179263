"""An update is that of the whole batch, however it was cut; a schedule is as long as the run."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gemma.optimizers import (
    AdamW,
    expect_weights,
    gradients_weigh,
    schedules,
    set_total_steps,
)

TOKENS = 7, 0, 1, 4  # that count, in each micro-batch
OPTIONS = [
    {},
    {"global_clipnorm": 0.1, "epsilon": 1.0},
    {"clipnorm": 0.1, "epsilon": 1.0},
    {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    {"schedule": "linear"},
]


class MeanOverTokens(keras.Model):
    """A model whose loss is a mean over the tokens that have weight, and whose steps say how many."""

    def __init__(self, optimizer=AdamW, **options):
        super().__init__()
        self.dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
        self.compile(optimizer(0.05, **options))
        expect_weights(self.optimizer)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        errors = ops.sum(ops.square(y - y_pred), axis=-1) * sample_weight
        return ops.sum(errors) / ops.maximum(ops.sum(sample_weight), 1.0)

    def train_step(self, *args):
        with gradients_weigh(self.optimizer, ops.sum(ops.cast(args[-1][2], "float32"))):
            return super().train_step(*args)


def rows(count=4, length=8):
    """Inputs, targets and weights of `count` rows, of which row i has `TOKENS[i]` tokens that count."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(0, 1, (count, length, width)).astype("float32") for width in (5, 3))
    weights = np.zeros((count, length), "float32")
    for row in range(count):
        weights[row, : TOKENS[row % 4]] = 1
    return x, y, weights


def fitted(options, batch_size, epochs=3, loss_scale=False):
    model = MeanOverTokens(**options)
    if loss_scale:
        model.compile(keras.optimizers.LossScaleOptimizer(model.optimizer))
        expect_weights(model.optimizer)
    x, y, weights = rows()
    set_total_steps(model.optimizer, epochs * 4 // batch_size)
    model.fit(x, y, batch_size, epochs, 0, sample_weight=weights, shuffle=False)
    return model


def numbers(variables):
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


OF_KERAS = {"optimizer": keras.optimizers.AdamW, "epsilon": 1.0}


@pytest.mark.parametrize(
    "options",
    [*OPTIONS, OF_KERAS, {**OF_KERAS, "global_clipnorm": 0.1}],
    ids=lambda o: " ".join(o) or "plain",
)
def test_four_micro_batches_of_unlike_length_are_one_batch(options):
    cut, whole = fitted({**options, "gradient_accumulation_steps": 4}, 1), fitted(options, 4)
    assert int(cut.optimizer.iterations) == int(whole.optimizer.iterations) == 3
    for got, expected in zip(numbers(cut.weights), numbers(whole.weights), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    moments = [numbers(m.optimizer._momentums) for m in (cut, whole)]
    for got, expected in zip(*moments, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_without_weights_micro_batches_would_not_be_the_batch():
    cut = fitted({"gradient_accumulation_steps": 4}, 1)
    plain = MeanOverTokens(gradient_accumulation_steps=4)
    plain.train_step = super(MeanOverTokens, plain).train_step
    x, y, weights = rows()
    plain.fit(x, y, 1, 3, 0, sample_weight=weights, shuffle=False)
    assert np.abs(numbers(cut.weights)[0] - numbers(plain.weights)[0]).max() > 1e-3


def apply(optimizer, variable, gradient, weight=None):
    gradient = [ops.convert_to_tensor(np.asarray(gradient, "float32"))]
    if weight is None:
        optimizer.apply(gradient, [variable])
        return
    with gradients_weigh(optimizer, ops.convert_to_tensor(float(weight))):
        optimizer.apply(gradient, [variable])


def test_weights_move_at_the_last_micro_batch_only():
    variable = keras.Variable([1.0, 2.0])
    optimizer = AdamW(0.1, gradient_accumulation_steps=3)
    seen = []
    for _ in range(6):
        apply(optimizer, variable, [1.0, 1.0], 2)
        seen.append(float(ops.convert_to_numpy(variable.value)[0]))
    assert seen[0] == seen[1] == 1.0 > seen[2] == seen[3] == seen[4] > seen[5]
    assert int(optimizer.iterations) == 2


WHOSE = pytest.mark.parametrize(
    "make", [AdamW, keras.optimizers.AdamW], ids=["keras_gemma", "keras"]
)


@WHOSE
def test_a_micro_batch_of_no_weight_adds_nothing_not_even_nan(make):
    got, expected = keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])
    optimizer = make(0.1, gradient_accumulation_steps=2)
    expect_weights(optimizer)
    apply(optimizer, got, [np.nan, np.inf], 0)
    apply(optimizer, got, [1.0, -3.0], 5)
    apply(make(0.1), expected, [1.0, -3.0])
    np.testing.assert_allclose(*numbers([got, expected]), rtol=1e-6)


@WHOSE
def test_micro_batches_that_all_weigh_nothing_make_no_nan(make):
    variable = keras.Variable([1.0, 2.0])
    optimizer = make(0.1, weight_decay=0.0, gradient_accumulation_steps=2)
    expect_weights(optimizer)
    for _ in range(2):
        apply(optimizer, variable, [np.nan, 1.0], 0)
    np.testing.assert_array_equal(numbers([variable])[0], [1.0, 2.0])


def test_the_state_of_an_optimizer_has_one_order_whenever_it_was_built():
    def names(build_at):
        optimizer = keras.optimizers.Adam(0.1, gradient_accumulation_steps=2, name="adam")
        for step in range(2):
            if step == build_at:
                optimizer.build([keras.Variable([1.0], name="weight")])
            expect_weights(optimizer)
        return [variable.path for variable in optimizer.variables]

    assert names(0) == names(1) and len(names(0)) == 6


def test_a_sum_begun_goes_on_after_save_and_load(tmp_path):
    def model():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
        model.compile(AdamW(0.1, gradient_accumulation_steps=2), "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    first = model()
    apply(first.optimizer, first.weights[0], np.ones((2, 2)), 3)
    first.save(tmp_path / "model.keras")
    second = keras.saving.load_model(tmp_path / "model.keras")
    for each in (first, second):
        apply(each.optimizer, each.weights[0], -np.eye(2), 9)
    np.testing.assert_array_equal(numbers(first.weights)[0], numbers(second.weights)[0])
    assert int(second.optimizer.iterations) == 1


@pytest.mark.parametrize("options", [{}, OF_KERAS], ids=["keras_gemma", "keras"])
def test_weights_reach_an_optimizer_inside_a_loss_scale(options):
    accumulates = {**options, "gradient_accumulation_steps": 4}
    scaled, plain = fitted(accumulates, 1, loss_scale=True), fitted(accumulates, 1)
    for got, expected in zip(numbers(scaled.weights), numbers(plain.weights), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_other_optimizers_pass_unharmed():
    got, expected = keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])
    apply(keras.optimizers.SGD(0.1), got, [1.0, -3.0], 5)
    apply(keras.optimizers.SGD(0.1), expected, [1.0, -3.0])
    np.testing.assert_array_equal(*numbers([got, expected]))


def test_given_tensors_stay_what_they_are_in_a_stateless_update():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("Keras has no stateless_apply on TensorFlow")
    variable = keras.Variable([1.0, 2.0])
    optimizer = AdamW(0.1, gradient_accumulation_steps=2)
    optimizer.build([variable])
    state, weights = [v.value for v in optimizer.variables], [variable.value]
    kept = [np.array(ops.convert_to_numpy(t)) for t in (*state, *weights)]
    new = weights
    for _ in range(2):
        new, state_after = optimizer.stateless_apply(state, [ops.ones(2)], new)
        for tensor, before in zip((*state, *weights), kept, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(tensor), before)
        state, kept = (
            state_after,
            [np.array(ops.convert_to_numpy(t)) for t in (*state_after, *weights)],
        )
    np.testing.assert_allclose(ops.convert_to_numpy(new[0]), [0.899, 1.898], rtol=1e-5)


# --- how many steps there are ---


def at(optimizer, updates, micro=1):
    optimizer.build([keras.Variable([1.0])])
    optimizer._iterations.assign(updates * micro)
    return optimizer


def rates(optimizer, steps):
    schedule = optimizer._learning_rate
    return [round(float(schedule(step)), 4) for step in steps]


def test_a_schedule_is_as_long_as_the_run_and_says_when_that_changes():
    optimizer = AdamW(1.0, schedule="linear")
    assert set_total_steps(optimizer, 4)
    assert rates(optimizer, range(5)) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert not set_total_steps(optimizer, 4)
    assert set_total_steps(optimizer, 2)
    assert rates(optimizer, range(3)) == [1.0, 0.5, 0.0]


def test_accumulated_steps_are_counted_as_updates():
    optimizer = AdamW(1.0, schedule="linear", gradient_accumulation_steps=3)
    set_total_steps(optimizer, 12)
    assert rates(optimizer, range(5)) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert float(at(optimizer, 2, micro=3).learning_rate) == pytest.approx(0.5)


def test_a_second_run_rises_and_falls_anew():
    optimizer = AdamW(1.0, schedule="linear")
    set_total_steps(optimizer, 4)
    at(optimizer, 4)
    assert set_total_steps(optimizer, 4)
    assert rates(optimizer, range(4, 9)) == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("done", [None, 2])
@pytest.mark.parametrize("with_config", [True, False])
def test_a_resumed_run_keeps_its_schedule(done, with_config):
    first = AdamW(1.0, schedule="linear")
    set_total_steps(first, 4)
    config = first.get_config() if with_config else AdamW(1.0, schedule="linear").get_config()
    resumed = at(AdamW.from_config(config), 2)
    assert set_total_steps(resumed, 4, done) is not with_config
    assert rates(resumed, range(2, 5)) == [0.5, 0.25, 0.0]


def test_where_fit_knows_that_a_run_begins_it_does_so_in_the_middle_of_another():
    optimizer = AdamW(1.0, schedule="linear")
    set_total_steps(optimizer, 4)
    at(optimizer, 2)
    assert not set_total_steps(optimizer, 4)
    assert set_total_steps(optimizer, 4, done=0)
    assert rates(optimizer, range(2, 7)) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_run_too_short_for_one_update_is_told():
    optimizer = AdamW(1.0, gradient_accumulation_steps=5)
    with pytest.warns(UserWarning, match="steps=5 makes an update .* this run has 4: no weight"):
        set_total_steps(optimizer, 4)
    assert not set_total_steps(optimizer, 5)


def test_a_total_that_was_given_and_a_plain_rate_are_left_alone():
    fixed = AdamW(schedules.Linear(1.0, total_steps=4))
    assert not set_total_steps(fixed, 100)
    assert rates(fixed, [2]) == [0.5]
    assert not set_total_steps(AdamW(1e-3), 100)
    assert not set_total_steps(keras.optimizers.SGD(1e-3), 100)


def test_optimizers_of_keras_and_loss_scales_take_our_schedules():
    wrapped = keras.optimizers.LossScaleOptimizer(AdamW(1.0, schedule="linear"))
    assert set_total_steps(wrapped, 4)
    # Keras counts micro-batches.
    plain = keras.optimizers.SGD(schedules.Linear(1.0), gradient_accumulation_steps=2)
    assert set_total_steps(plain, 4)
    assert rates(plain, range(5)) == [1.0, 0.75, 0.5, 0.25, 0.0]
