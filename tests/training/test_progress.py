"""What a run tells of itself while it works."""

import json
import math

import keras
import numpy as np
import pytest
from training.runs import fit

from keras_gemma.training import Progress, run_log
from keras_gemma.training.flops import product_rate, training_flops


def test_each_line_of_the_log_tells_where_the_run_stands(model, texts, tmp_path):
    told, weights = [], []
    weighing = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(model.fit_run.weight)
    )
    options = {"log_every": 2, "report": told.append, "validation_data": texts[:4]}
    history = fit(model, texts, tmp_path, weighing, **options)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == told
    steps = [record for record in lines if "loss" in record]
    assert [record["step"] for record in steps] == [2, 4, 6, 8]
    for record in steps:
        assert record["perplexity"] == math.exp(record["loss"])
        assert record["tokens"] == record["step"] * 4 * 24
        assert record["tokens_per_second"] > 0 and 0 < record["flops_share"] < 1
        assert record["memory"] > 10e6
    assert steps[-1]["seconds_left"] == 0
    # What Keras tells of an epoch is the mean of what was told of its steps, over tokens.
    assert len(set(weights)) > 1 and sum(weights) == 2 * model.data_report.labels
    tokens = np.reshape(weights, (4, 2)).sum(1)
    means = np.average(np.reshape([r["loss"] for r in steps], (2, 2)), 1, tokens.reshape(2, 2))
    assert history.history["loss"] == pytest.approx(means, rel=1e-6)
    held_out = [record["val_loss"] for record in lines if "val_loss" in record]
    assert held_out == history.history["val_loss"]


@pytest.mark.once
def test_a_second_fit_is_told_as_if_it_were_the_first(model, texts):
    told, weights = [], []
    progress = Progress(told.append, every=3)
    weighing = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(model.fit_run.weight)
    )
    for epochs in (1, 2):
        told.clear()
        weights.clear()
        history = model.fit(
            texts, batch_size=4, epochs=epochs, verbose=0, callbacks=[progress, weighing]
        ).history
    assert [record["step"] for record in told] == [3, 6, 8]
    tokens = [sum(weights[:3]), sum(weights[3:6]), sum(weights[6:])]
    whole = np.average([record["loss"] for record in told], weights=tokens)
    assert whole == pytest.approx(sum(history["loss"]) / 2, rel=1e-6)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_the_last_steps_of_data_that_do_not_tell_their_number_are_told(model, texts, tmp_path):
    batches = (model.preprocessor(texts[:4]) for _ in range(3))
    fit(model, batches, tmp_path, epochs=1, batch_size=None, log_every=20)
    assert [record["step"] for record in run_log.read(tmp_path)] == [3]


def test_operations_are_those_of_each_product(model):
    # One layer of attention with a head of 8: 24 x (4 + 2 + 2 + 4) x 8, feed-forward 3 x 24 x 32,
    # and the table once. Scores and sums: 2 x 2 x T / 2 x 32 forward, twice that backward.
    config = model.backbone.config
    weights = 24 * 12 * 8 + 3 * 24 * 32 + config.vocabulary_size * 24
    assert training_flops(model, 12) == 12 * (6 * weights + 3 * 2 * 12 * 4 * 8)
    model.backbone.get_layer("decoder_block_0").trainable = False
    frozen = 24 * 12 * 8 + 3 * 24 * 32
    assert training_flops(model, 12) == 12 * (6 * weights - 2 * frozen + 3 * 2 * 12 * 4 * 8)


def test_the_probe_finds_a_rate_and_looks_once():
    rate = product_rate(keras.config.floatx())
    assert 1e8 < rate < 1e15
    assert product_rate(keras.config.floatx()) == rate
