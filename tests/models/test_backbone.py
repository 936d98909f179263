"""Properties of the forward pass, and the model as a Keras citizen."""

import keras
import numpy as np
import pytest
from conftest import SIZES, WINDOWED, close, loud
from keras import ops

from keras_gemma import Gemma3Backbone, GemmaBackbone, GemmaCausalLM
from keras_gemma.layers import TokenPooling, UnitLength

EVERYTHING = {
    **WINDOWED,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 30.0,
    "final_logit_soft_cap": 30.0,
    "query_head_dim_normalize": False,
    "layer_norm_epsilon": 1e-3,
    "dropout": 0.25,
}


def run(backbone, ids, mask):
    inputs = {"token_ids": np.array(ids, "int32"), "padding_mask": np.array(mask, "int32")}
    return ops.convert_to_numpy(backbone(inputs))


def random_ids(count, seed=0):
    return np.random.default_rng(seed).integers(1, 96, count).tolist()


def test_packed_documents_equal_each_alone(backbone):
    first, second, third = random_ids(5), random_ids(7, 1), random_ids(3, 2)
    packed = run(backbone, [first + second + third + [0]], [[1] * 5 + [2] * 7 + [3] * 3 + [0]])[0]
    for part, ids in ((packed[:5], first), (packed[5:12], second), (packed[12:15], third)):
        close(part, run(backbone, [ids], [[1] * len(ids)])[0])


def test_left_padding_equals_right_padding_equals_none(backbone):
    ids = random_ids(9)
    alone = run(backbone, [ids], [[1] * 9])[0]
    close(run(backbone, [ids + [0] * 4], [[1] * 9 + [0] * 4])[0, :9], alone)
    close(run(backbone, [[0] * 4 + ids], [[0] * 4 + [1] * 9])[0, 4:], alone)


def test_a_later_token_changes_nothing_before_it(backbone):
    ids = random_ids(12)
    before = run(backbone, [ids], [[1] * 12])
    after = run(backbone, [ids[:8] + random_ids(4, 9)], [[1] * 12])
    assert (before[:, :8] == after[:, :8]).all()
    assert (before[:, 8:] != after[:, 8:]).any()


def test_config_round_trip_keeps_every_argument():
    backbone = GemmaBackbone(**SIZES, **EVERYTHING, dtype="bfloat16", name="mine")
    again = GemmaBackbone.from_config(backbone.get_config())
    assert again.get_config() == backbone.get_config()
    assert again.config == backbone.config
    assert again.config.intermediate_dim == SIZES["intermediate_dim"] // 2
    assert again.dtype_policy.name == "bfloat16"
    for name, value in {**SIZES, **EVERYTHING}.items():
        assert getattr(again, name) == value


def test_gemma3_counts_one_branch_of_the_feed_forward_layer():
    backbone = Gemma3Backbone(**SIZES, image_size=None, **WINDOWED, global_rope_scaling_factor=8.0)
    assert backbone.config.intermediate_dim == backbone.intermediate_dim == 64
    again = Gemma3Backbone.from_config(backbone.get_config())
    assert again.config == backbone.config
    rules = [backbone.config.attention_rules(layer) for layer in range(6)]
    assert [rule.window for rule in rules] == [4] * 5 + [None]
    assert [rule.rope_base for rule in rules] == [10_000.0] * 5 + [1_000_000.0]
    assert [rule.rope_scaling for rule in rules] == [1.0] * 5 + [8.0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
def test_a_keras_file_comes_back_the_same(dtype, tmp_path):
    model = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED, dtype=dtype)))
    batch = {"token_ids": np.array([random_ids(6)]), "padding_mask": np.ones((1, 6), "int32")}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, GemmaCausalLM)
    assert again.backbone.dtype_policy.name == dtype
    for old, new in zip(model.variables, again.variables):
        assert old.dtype == new.dtype and old.path == new.path
    old, new = (ops.convert_to_numpy(ops.cast(m(batch), "float32")) for m in (model, again))
    assert (old == new).all()


def test_weights_come_back_exactly(backbone, tmp_path):
    backbone.save_weights(tmp_path / "x.weights.h5")
    again = GemmaBackbone.from_config(backbone.get_config())
    again.load_weights(tmp_path / "x.weights.h5")
    ids, mask = [random_ids(6)], [[1] * 6]
    assert (run(backbone, ids, mask) == run(again, ids, mask)).all()


def test_bfloat16_is_near_float32():
    wide = loud(GemmaBackbone(**SIZES), scale=0.2)
    narrow = GemmaBackbone(**SIZES, dtype="bfloat16")
    for source, target in zip(wide.variables, narrow.variables):
        target.assign(source)
        source.assign(ops.cast(ops.cast(source, "bfloat16"), "float32"))
    batch = {"token_ids": np.array([random_ids(40)]), "padding_mask": np.ones((1, 40), "int32")}
    exact, rounded = (
        ops.convert_to_numpy(ops.cast(GemmaCausalLM(b)(batch), "float32")) for b in (wide, narrow)
    )
    error = np.sqrt(np.mean((exact - rounded) ** 2) / np.mean(exact**2))
    assert error <= 2e-2


@pytest.mark.once
def test_bfloat16_holds_at_8192_positions():
    backbone = loud(GemmaBackbone(**{**SIZES, "num_layers": 1}, **WINDOWED, dtype="bfloat16"))
    ids = np.random.default_rng(0).integers(1, 96, (1, 8192))
    assert np.isfinite(run(backbone, ids, np.ones_like(ids)).astype("float32")).all()


def test_the_graph_can_be_taken_apart(backbone):
    model = GemmaCausalLM(backbone)
    first = keras.Model(backbone.input, backbone.get_layer("decoder_block_1").output)
    batch = {"token_ids": np.array([random_ids(6)]), "padding_mask": np.ones((1, 6), "int32")}
    assert tuple(first(batch).shape) == (1, 6, 24)
    blocks = [layer for layer in backbone.layers if type(layer).__name__.endswith("DecoderBlock")]
    stacked = keras.Model(
        backbone.input, [backbone.output, ops.stack([block.output for block in blocks])]
    )
    assert tuple(stacked(batch)[1].shape) == (len(blocks), 1, 6, 24)
    head = keras.Model(model.input, keras.layers.Dense(2)(model(model.input)))
    assert tuple(head(batch).shape) == (1, 6, 2)


def test_a_model_of_ones_own_over_the_graph_comes_back_the_same(backbone, tmp_path):
    texts = TokenPooling("mean")(backbone.output, backbone.input["padding_mask"])
    outputs = [keras.layers.Dense(3)(backbone.output[:, -1]), UnitLength()(texts)]
    own = keras.Model(backbone.input, outputs)
    batch = {"token_ids": np.array([random_ids(6)]), "padding_mask": np.ones((1, 6), "int32")}
    own.save(tmp_path / "own.keras")
    for old, new in zip(own(batch), keras.saving.load_model(tmp_path / "own.keras")(batch)):
        assert (ops.convert_to_numpy(old) == ops.convert_to_numpy(new)).all()


def test_a_clone_may_call_its_layers_differently(backbone):
    def doubled(layer, *args, **kwargs):
        y = layer(*args, **kwargs)
        return ops.multiply(y, 2) if layer.name == "final_normalization" else y

    clone = keras.models.clone_model(backbone, call_function=doubled)
    clone.set_weights(backbone.get_weights())
    batch = {"token_ids": np.array([random_ids(6)]), "padding_mask": np.ones((1, 6), "int32")}
    close(clone(batch), 2 * ops.convert_to_numpy(backbone(batch)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"intermediate_dim": 63}, "intermediate_dim=63 counts both branches"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"vocabulary_size": "big"}, "vocabulary_size"),
    ],
)
def test_bad_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        GemmaBackbone(**{**SIZES, **change})


def test_dropout_acts_in_training_only():
    backbone = loud(GemmaBackbone(**{**SIZES, "dropout": 0.5}))
    batch = {"token_ids": np.array([random_ids(6)]), "padding_mask": np.ones((1, 6), "int32")}
    still = ops.convert_to_numpy(backbone(batch))
    assert (still == ops.convert_to_numpy(backbone(batch))).all()
    assert (still != ops.convert_to_numpy(backbone(batch, training=True))).any()
