"""A backbone's arguments in a GGUF file: there and back, and as llama.cpp's converter writes them."""

import gguf
import numpy as np
import pytest
from conftest import SIZES as SMALL
from conftest import WINDOWED

import keras_gemma
from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.conversion.gguf.metadata import (
    backbone_arguments,
    backbone_metadata,
    model_metadata,
)
from keras_gemma.conversion.gguf.vocabulary import vocabulary_proto
from keras_gemma.conversion.gguf.writer import write_gguf
from keras_gemma.conversion.sentencepiece_proto import PieceModel, serialize_model
from keras_gemma.presets import BadPresetError, folder

pytestmark = pytest.mark.once

SIZES = SMALL | {"num_layers": 3}
NORMS = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
CAPS = {"attention_logit_soft_cap": 50.0, "final_logit_soft_cap": 30.0}
PLAIN = {"attention_logit_soft_cap": None, "final_logit_soft_cap": None}
GEMMA3 = {**NORMS, "use_query_key_norm": True, "image_size": None, **WINDOWED}
SHAPES = {
    "2B": ("GemmaBackbone", SIZES | {"num_key_value_heads": 1}),
    "7B": ("GemmaBackbone", SIZES | {"num_key_value_heads": 4}),
    "Gemma 2": ("GemmaBackbone", SIZES | NORMS | CAPS | WINDOWED),
    "Gemma 2 27B": (
        "GemmaBackbone",
        SIZES | NORMS | CAPS | WINDOWED | {"num_layers": 46, "query_head_dim_normalize": False},
    ),
    "Gemma 3": ("Gemma3Backbone", SIZES | GEMMA3 | PLAIN),
    "Gemma 3 4B": ("Gemma3Backbone", SIZES | GEMMA3 | {"global_rope_scaling_factor": 8.0}),
    "Gemma 3 27B": (
        "Gemma3Backbone",
        SIZES | GEMMA3 | {"num_layers": 62, "query_head_dim_normalize": False},
    ),
    "Gemma 3, all layers full": (
        "Gemma3Backbone",
        SIZES | GEMMA3 | {"use_sliding_window_attention": False, "final_logit_soft_cap": 20.0},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_is_the_same_model(name, tmp_path):
    backbone, given = SHAPES[name]
    path = tmp_path / "model.gguf"
    write_gguf(path, model_metadata(backbone, given), [])
    found, back = backbone_arguments(GGUFFile(path).metadata, "model.gguf")
    assert found == backbone
    if name == "Gemma 3, all layers full":  # then the width of windows is of no matter
        back["sliding_window_size"] = given["sliding_window_size"]
    assert {key: back[key] for key in given} == given
    assert type(back["layer_norm_epsilon"]) is float and back["layer_norm_epsilon"] == 1e-6


@pytest.mark.parametrize("name", ["2B", "Gemma 2", "Gemma 3"])
def test_a_whole_configuration_comes_back(name):
    backbone, given = SHAPES[name]
    made = getattr(keras_gemma, backbone)
    config = made(**given).get_config()
    found, back = backbone_arguments(backbone_metadata(backbone, config), "x.gguf")
    again = getattr(keras_gemma, found)(**back).get_config()
    assert again == config | {"name": again["name"]}


def test_the_bundled_model_with_its_vocabulary(tmp_path):
    import json

    place = folder("gemma_tiny_en")
    config = json.loads((place / "config.json").read_text())["config"]
    proto = (place / "assets/tokenizer/vocabulary.spm").read_bytes()
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model_metadata("GemmaBackbone", config, proto, "BF16", name="tiny"), [])
    metadata = GGUFFile(path).metadata
    assert metadata["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert len(metadata["tokenizer.ggml.tokens"]) == config["vocabulary_size"]
    _, back = backbone_arguments(metadata, "tiny.gguf")
    assert back == {key: config[key] for key in back}


def test_the_keys_of_gemma_are_those_that_the_reference_names():
    backbone, given = SHAPES["2B"]
    keys, named = backbone_metadata(backbone, given), gguf.Keys
    awaited = {
        named.General.ARCHITECTURE: "gemma",
        named.General.TYPE: "model",
        named.LLM.CONTEXT_LENGTH: 8192,
        named.LLM.BLOCK_COUNT: 3,
        named.LLM.EMBEDDING_LENGTH: 24,
        named.LLM.FEED_FORWARD_LENGTH: 32,  # one branch
        named.Attention.HEAD_COUNT: 4,
        named.Attention.HEAD_COUNT_KV: 1,
        named.Attention.KEY_LENGTH: 8,
        named.Attention.VALUE_LENGTH: 8,
        named.Attention.LAYERNORM_RMS_EPS: 1e-6,
        named.LLM.VOCAB_SIZE: 96,
    }
    assert keys == {key.format(arch="gemma"): value for key, value in awaited.items()}


def test_the_further_keys_of_gemma_2_and_3_are_those_that_the_reference_names():
    named = gguf.Keys
    gemma2 = backbone_metadata(*SHAPES["Gemma 2"])
    assert gemma2["general.architecture"] == "gemma2"
    assert gemma2[named.LLM.ATTN_LOGIT_SOFTCAPPING.format(arch="gemma2")] == 50.0
    assert gemma2[named.LLM.FINAL_LOGIT_SOFTCAPPING.format(arch="gemma2")] == 30.0
    assert gemma2[named.Attention.SLIDING_WINDOW.format(arch="gemma2")] == 4
    gemma3 = backbone_metadata(*SHAPES["Gemma 3 4B"])
    assert gemma3["general.architecture"] == "gemma3"
    assert gemma3[named.LLM.CONTEXT_LENGTH.format(arch="gemma3")] == 131072
    assert gemma3[named.LLM.FEED_FORWARD_LENGTH.format(arch="gemma3")] == 64
    assert gemma3[named.Rope.FREQ_BASE.format(arch="gemma3")] == 1_000_000.0
    assert gemma3[named.Rope.SCALING_TYPE.format(arch="gemma3")] == "linear"
    assert gemma3[named.Rope.SCALING_FACTOR.format(arch="gemma3")] == 8.0
    assert gemma3[named.Attention.SLIDING_WINDOW.format(arch="gemma3")] == 4
    assert not any("softcapping" in key for key in gemma3)
    assert not any("scaling" in key for key in backbone_metadata(*SHAPES["Gemma 3"]))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("2B", {"use_post_ffw_norm": True}, "use_post_attention_norm=False"),
        ("2B", {"final_logit_soft_cap": 30.0}, "gemma has no field for final_logit_soft_cap=30.0"),
        ("2B", WINDOWED, "use_sliding_window_attention=True"),
        ("2B", {"query_head_dim_normalize": False}, "query_head_dim_normalize=False"),
        ("Gemma 2", PLAIN, "soft caps"),
        ("Gemma 2", {"use_sliding_window_attention": False}, "use_sliding_window_attention=False"),
        ("Gemma 2", {"query_head_dim_normalize": False}, "query_head_dim_normalize=False"),
        ("Gemma 2 27B", {"query_head_dim_normalize": True}, "query_head_dim_normalize=True"),
        ("Gemma 3", {"attention_logit_soft_cap": 5.0}, "attention_logit_soft_cap=5.0"),
        ("Gemma 3", {"use_query_key_norm": False}, "use_query_key_norm=False"),
        ("Gemma 3", {"local_rope_scaling_factor": 2.0}, "local_rope_scaling_factor=2.0"),
    ],
)
def test_a_model_that_readers_would_take_for_another_is_not_written(name, changes, message):
    backbone, given = SHAPES[name]
    with pytest.raises(ValueError, match=f"{message}.* Export this model in another format"):
        backbone_metadata(backbone, given | changes)


def test_the_query_scale_is_of_no_matter_where_both_are_equal():
    backbone, given = SHAPES["Gemma 2"]
    even = given | {"hidden_dim": 32, "query_head_dim_normalize": False}  # 32 / 4 heads = 8
    _, back = backbone_arguments(backbone_metadata(backbone, even), "x")
    assert back["query_head_dim_normalize"] is True


def test_what_a_file_leaves_out_is_what_llama_cpp_takes_for_it():
    keys = backbone_metadata(*SHAPES["Gemma 2"])
    for key in (
        "attention.sliding_window",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "vocab_size",
    ):
        del keys[f"gemma2.{key}"]
    keys["tokenizer.ggml.tokens"] = ["a"] * 77
    _, back = backbone_arguments(keys, "x")
    assert back["sliding_window_size"] == 4096
    assert back["attention_logit_soft_cap"] == 50.0 and back["final_logit_soft_cap"] == 30.0
    assert back["num_key_value_heads"] == 4 and back["head_dim"] == 24 // 4
    assert back["vocabulary_size"] == 77
    assert backbone_arguments(keys, "x", vocabulary_size=80)[1]["vocabulary_size"] == 80
    with pytest.raises(BadPresetError, match="has 77 tokens, and its embedding table only 76"):
        backbone_arguments(keys, "x", vocabulary_size=76)


def test_heads_told_of_layer_by_layer_are_read_where_all_are_alike():
    keys = backbone_metadata(*SHAPES["2B"])
    keys["gemma.attention.head_count"] = np.array([4, 4, 4], "int32")
    assert backbone_arguments(keys, "x")[1]["num_query_heads"] == 4
    keys["gemma.attention.head_count"] = np.array([4, 2, 4], "int32")
    with pytest.raises(BadPresetError, match=r"x: gemma.attention.head_count is \[4 2 4\], no num"):
        backbone_arguments(keys, "x")


WRONG = {
    "no architecture": ("general.architecture", None, "architecture 'None'"),
    "another family": ("general.architecture", "llama", "'llama'; read are gemma, gemma2, gemma3"),
    "no layers": ("gemma3.block_count", None, "gemma3.block_count is missing"),
    "text": ("gemma3.block_count", "3", "block_count is 3, no number"),
    "true": ("gemma3.block_count", True, "block_count is True, no number"),
    "a fraction": ("gemma3.block_count", 2.5, "num_layers=2.5 must be a whole number"),
    "10^9 layers": ("gemma3.block_count", 10**9, "num_layers=1000000000 must be"),
    "no heads": ("gemma3.attention.head_count", 0, "num_query_heads=0 must be"),
    "a list": ("gemma3.block_count", ["a"], "block_count is .*no number"),
    "NaN": ("gemma3.attention.layer_norm_rms_epsilon", float("nan"), "layer_norm_epsilon=nan"),
    "values of another width": ("gemma3.attention.value_length", 4, "is 4; 8 is read"),
    "rotated in part": ("gemma3.rope.dimension_count", 4, "rope.dimension_count is 4; 8 is read"),
    "another base": ("gemma3.rope.freq_base", 10000.0, "freq_base is 10000.0; 1000000.0 is read"),
    "another local base": ("gemma3.rope.freq_base_swa", 5000.0, "is 5000.0; 10000.0 is read"),
    "yarn": ("gemma3.rope.scaling.type", "yarn", "scaling.type is 'yarn'; 'linear' is read"),
    "another pattern": ("gemma3.attention.sliding_window_pattern", 4, "is 4; one of 6 without"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_key_that_is_wrong_is_named(case):
    key, value, message = WRONG[case]
    keys = backbone_metadata(*SHAPES["Gemma 3 4B"])
    keys = {name: old for name, old in keys.items() if name != key}
    if value is not None:
        keys[key] = value
    with pytest.raises(BadPresetError, match=f"x.gguf.*{message}"):
        backbone_arguments(keys, "x.gguf")


def test_gemma_does_not_scale_positions():
    keys = backbone_metadata(*SHAPES["2B"])
    keys |= {"gemma.rope.scaling.type": "linear", "gemma.rope.scaling.factor": 2.0}
    with pytest.raises(BadPresetError, match="gemma.rope.scaling.factor scales positions"):
        backbone_arguments(keys, "x")


@pytest.mark.parametrize("name", ["Gemma 2", "Gemma 3"])
def test_windows_told_of_layer_by_layer_are_those_of_the_published_models(name):
    keys = backbone_metadata(*SHAPES[name])
    architecture = keys["general.architecture"]
    key = f"{architecture}.attention.sliding_window_pattern"
    period = {"gemma2": 2, "gemma3": 6}[architecture]
    windowed = np.array([layer % period < period - 1 for layer in range(3)])
    assert backbone_arguments(keys | {key: windowed}, "x")
    assert backbone_arguments(keys | {key: period}, "x")
    with pytest.raises(BadPresetError, match="sliding_window_pattern"):
        backbone_arguments(keys | {key: ~windowed}, "x")
    with pytest.raises(BadPresetError, match="sliding_window_pattern"):
        backbone_arguments(keys | {key: windowed[:2]}, "x")


def test_random_values_are_read_or_refused():
    random = np.random.default_rng(3)
    odd = [
        None,
        -1,
        0,
        2**63,
        1.5,
        float("nan"),
        "x",
        True,
        ["a"],
        np.arange(3),
        np.zeros(0),
        1e300,
    ]
    for _ in range(2000):
        keys = backbone_metadata(*SHAPES[list(SHAPES)[random.integers(len(SHAPES))]])
        extra = f"{keys['general.architecture']}.attention.sliding_window_pattern"
        for name in random.choice([*keys, extra, "tokenizer.ggml.tokens"], random.integers(1, 4)):
            keys[str(name)] = odd[random.integers(len(odd))]
        try:
            backbone_arguments(keys, "x")
        except BadPresetError:
            continue


@pytest.mark.parametrize("count", [500, pytest.param(10000, marks=pytest.mark.slow)])
def test_random_mutations_of_a_whole_header_are_read_or_refused(count, tmp_path):
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", "\u2581\u2581", "a", "b", "ab"]
    types = np.array([3, 3, 3, 2, 4, 4, 1, 1, 1], "uint8")
    scores = -np.arange(len(pieces), dtype="float32")
    ids = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
    names = {name: pieces[index] for name, index in ids.items()}
    proto = serialize_model(PieceModel(pieces, scores, types, ids, names, byte_fallback=False))
    backbone, given = SHAPES["Gemma 3 4B"]
    path, random, refused = tmp_path / "x.gguf", np.random.default_rng(count), 0
    given = given | {"vocabulary_size": len(pieces)}
    write_gguf(path, model_metadata(backbone, given, proto), [])
    whole = path.read_bytes()
    assert vocabulary_proto(GGUFFile(path).metadata, "x.gguf") == proto
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            at = random.integers(len(data))
            data[at] = (random.integers(256), data[at] ^ 1 << random.integers(8))[
                random.integers(2)
            ]
        path.write_bytes(data)
        try:
            metadata = GGUFFile(path).metadata
            backbone_arguments(metadata, "x.gguf")
            vocabulary_proto(metadata, "x.gguf")
        except BadPresetError:
            refused += 1
    assert count * 0.2 < refused < count
