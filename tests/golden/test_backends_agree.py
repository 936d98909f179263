"""Every backend computes what was recorded on JAX: logits, greedy text, training."""

import json

import numpy as np
import pytest

from keras_gemma.presets import registry

if not (registry.root() / "gemma_tiny_en" / "model.weights.h5").exists():
    pytest.skip("presets/gemma_tiny_en has no weights", allow_module_level=True)

import recording


@pytest.fixture(scope="module")
def recorded():
    return json.loads(recording.FILE.read_text())


def test_logits_agree(recorded):
    found, expected = recording.logits(), recorded["logits"]
    difference = np.abs(np.array(found["every_16th"]) - np.array(expected["every_16th"]))
    assert difference.max() <= 2e-5 * expected["largest"]


def test_greedy_texts_are_equal(recorded):
    assert recording.greedy_texts() == recorded["greedy_texts"]


def test_losses_of_twenty_steps_agree(recorded):
    np.testing.assert_allclose(recording.losses(), recorded["losses"], rtol=1e-3)
    assert recorded["losses"][-1] < recorded["losses"][0]
