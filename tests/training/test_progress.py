"""What a run tells of itself while it works."""

import json
import math

import keras
import pytest
from training.runs import fit

from keras_gemma.training.flops import product_rate, training_flops


def test_each_line_of_the_log_tells_where_the_run_stands(model, texts, tmp_path):
    told = []
    history = fit(
        model, texts, tmp_path, log_every=2, report=told.append, validation_data=texts[:4]
    )
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
    # What Keras tells of an epoch is the mean of what was told of its steps.
    means = [(a["loss"] + b["loss"]) / 2 for a, b in (steps[:2], steps[2:])]
    assert history.history["loss"] == pytest.approx(means, rel=1e-6)
    held_out = [record["val_loss"] for record in lines if "val_loss" in record]
    assert held_out == history.history["val_loss"]


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
