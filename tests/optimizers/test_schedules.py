"""Schedules are Transformers' after the warm-up, survive being saved, and refuse what can't be."""

import keras
import numpy as np
import pytest

from keras_gemma.optimizers import AdamW, schedules

RUN = 40  # updates
CLASSES = schedules.NAMES.values()


def rates(schedule, steps=range(RUN)):
    return np.array([float(schedule(step)) for step in steps])


def transformers_rates(name, warmup, **options):
    torch, optimization = pytest.importorskip("torch"), pytest.importorskip("transformers")
    make = getattr(optimization, f"get_{name}_schedule" + "_with_warmup" * (name != "wsd"))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = make(optimizer, num_warmup_steps=warmup, num_training_steps=RUN, **options)
    return np.array([schedule.lr_lambdas[0](step) for step in range(RUN)])


@pytest.mark.parametrize("warmup", [0, 4, 0.1])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cosine", {}),
        ("linear", {}),
        ("wsd", {"num_decay_steps": 4, "decay_type": "linear"}),
    ],
)
def test_after_the_warm_up_rates_are_those_of_transformers(name, options, warmup):
    got = rates(schedules.NAMES[name](2.0, warmup, total_steps=RUN)) / 2
    steps = 4 if warmup else 0
    expected = transformers_rates(name, steps, **options)
    np.testing.assert_allclose(got[steps:], expected[steps:], atol=1e-6)
    np.testing.assert_allclose(got[:steps], np.arange(1, steps + 1) / (steps + 1), atol=1e-6)


@pytest.mark.parametrize("schedule", CLASSES)
def test_a_rate_is_highest_at_the_peak_and_ends_at_the_final_share(schedule):
    seen = rates(schedule(3e-4, 0.1, final=0.25, total_steps=RUN), range(3 * RUN))
    assert seen.max() == pytest.approx(3e-4)
    assert (seen > 0).all()
    np.testing.assert_allclose(seen[RUN:], 0.25 * 3e-4, rtol=1e-6)


@pytest.mark.parametrize("schedule", CLASSES)
def test_a_schedule_and_what_fit_told_it_survive_a_configuration(schedule):
    made = schedule(3e-4, 0.1, final=0.1)
    made.set_run(5, RUN)
    optimizer = AdamW.from_config(AdamW(made).get_config())
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    for copy in (optimizer._learning_rate, again):
        assert copy.get_config() == made.get_config()
        np.testing.assert_array_equal(rates(copy), rates(made))


def test_optimizers_take_schedules_by_name():
    optimizer = AdamW(2e-4, schedule="cosine", warmup=0.03)
    assert isinstance(optimizer._learning_rate, schedules.Cosine)
    assert (optimizer._learning_rate.peak, optimizer._learning_rate.warmup) == (2e-4, 0.03)


def test_a_length_nobody_told_is_an_error_that_says_where_to_tell_it():
    with pytest.raises(ValueError, match=r"steps_per_epoch=.*total_steps="):
        _ = AdamW(1e-3, schedule="cosine").learning_rate


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1e-3, "fast", None])
def test_a_learning_rate_one_can_not_train_with_is_named(rate):
    with pytest.raises(ValueError, match="learning_rate must be"):
        AdamW(rate)
    with pytest.raises(ValueError, match="learning_rate must be"):
        AdamW(rate, schedule="linear")
    with pytest.raises(ValueError, match="peak must be"):
        schedules.Cosine(rate)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: AdamW(1e-3, schedule="cosin"), "cosine, linear, wsd"),
        (lambda: AdamW(1e-3, warmup=0.1), "schedule="),
        (lambda: schedules.Cosine(1.0, warmup=1.5), "warmup"),
        (lambda: schedules.Cosine(1.0, warmup=-1), "warmup"),
        (lambda: schedules.Cosine(1.0, warmup=float("nan")), "warmup"),
        (lambda: schedules.Cosine(1.0, final=2.0), "final"),
        (lambda: schedules.WarmupStableDecay(1.0, decay=-0.1), "decay"),
        (lambda: schedules.Cosine(1.0, warmup=RUN, total_steps=RUN), "too short"),
        (lambda: schedules.Cosine(1.0, total_steps=0), "too short"),
    ],
)
def test_what_can_not_be_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
