"""A run of fit is killed anywhere, resumed, and nobody can tell by its numbers."""

import json

import keras
import numpy as np
import pytest

from keras_gemma.training import Checkpoint

EPOCHS, BATCH = 2, 4  # eight steps: four batches an epoch, the last filled up
STEPS = 8


class Killed(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends `fit` after so many steps, as a kill does: no other callback is told."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed


def numbers(model):
    return [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


def same(model, other):
    pairs = list(zip(numbers(model), numbers(other), strict=True))
    return all(np.array_equal(a, b) for a, b in pairs)


def losses(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"]) for r in map(json.loads, lines) if "loss" in r]


def fit(model, texts, folder, *others, **keywords):
    options = {"every": 1, "log_every": 1, "resume": True}
    given = {
        name: keywords.pop(name) for name in list(keywords) if name in {*options, "best", "keep"}
    }
    checkpoint = Checkpoint(folder, **{**options, **given})
    keywords = {"epochs": EPOCHS, "batch_size": BATCH, "verbose": 0, **keywords}
    return model.fit(texts, callbacks=[checkpoint, *others], **keywords)


@pytest.fixture
def whole(new_model, texts, tmp_path):
    """A run that nobody stopped."""
    model = new_model()
    fit(model, texts, tmp_path / "whole")
    return model, losses(tmp_path / "whole")


@pytest.mark.parametrize("every", [1, 3])
def test_killed_at_any_step_and_resumed_it_ends_with_the_very_numbers(
    new_model, texts, tmp_path, whole, every
):
    for step in range(1, STEPS):
        folder = tmp_path / f"killed_{step}"
        with pytest.raises(Killed):
            fit(new_model(), texts, folder, KillAt(step), every=every)
        model = new_model(seed=77)  # other first weights, another order: both are restored
        fit(model, texts, folder, every=every)
        assert same(model, whole[0]), step
        assert losses(folder) == whole[1], step
