"""The learning rate rises, then falls."""

import keras
import numpy as np
import pytest

from keras_gemma.optimizers import AdamW, WarmupCosine


def test_rate_rises_to_the_peak_and_falls_to_the_floor():
    schedule = WarmupCosine(2e-3, warmup_steps=10, total_steps=110, floor=2e-4)
    rates = np.array([float(schedule(step)) for step in range(120)])
    assert np.argmax(rates) in (9, 10) and rates.max() == pytest.approx(2e-3)
    assert rates[0] == pytest.approx(2e-4)
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:111]) < 0).all()
    assert rates[60] == pytest.approx((2e-3 + 2e-4) / 2)
    np.testing.assert_allclose(rates[110:], 2e-4, rtol=1e-6)


def test_no_warmup_begins_at_the_peak():
    assert float(WarmupCosine(1e-3, 0, 5)(0)) == pytest.approx(1e-3)


def test_it_survives_the_config_of_an_optimizer():
    optimizer = AdamW(WarmupCosine(1e-3, 2, 5, floor=1e-5))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, AdamW)
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("numbers", [(1e-3, 5, 5), (1e-3, -1, 5), (1e-3, 1, 5, 1.0)])
def test_numbers_out_of_order_are_refused(numbers):
    with pytest.raises(ValueError, match="must"):
        WarmupCosine(*numbers)
