"""Presets of KerasHub: old releases', shards, quantized ones, and weights that do not fit."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import close

from keras_gemma import Gemma3Backbone, GemmaBackbone, GemmaCausalLM
from keras_gemma.conversion.formats import format_of, open_checkpoint
from keras_gemma.conversion.keras_hub.h5_file import H5Tensors
from keras_gemma.conversion.keras_hub.h5_writer import write_h5
from keras_gemma.conversion.tensors import Writable
from keras_gemma.presets import BadPresetError

h5py = pytest.importorskip("h5py")

OLD = Path(__file__).parent / "presets_of_old_releases"
RELEASES = sorted(path.name for path in OLD.iterdir() if path.is_dir() and "_0." in path.name)
BLOCK = "layers/gemma_decoder_block_1"
SIZES = {
    "vocabulary_size": 64,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 24,
    "head_dim": 4,
}


def loaded(place, **options):
    """The backbone of a preset, in float32."""
    kind = {"GemmaBackbone": GemmaBackbone, "Gemma3Backbone": Gemma3Backbone}
    return kind[open_checkpoint(place).backbone].from_preset(place, dtype="float32", **options)


def hidden(model, token_ids):
    batch = {"token_ids": np.asarray(token_ids), "padding_mask": np.ones_like(token_ids)}
    return keras.ops.convert_to_numpy(model(batch))


@pytest.mark.parametrize("release", RELEASES)
def test_an_old_releases_preset_computes_what_that_release_did(release):
    expected = json.loads((OLD / release / "expected.json").read_text())
    got = hidden(loaded(OLD / release), expected["token_ids"])
    close(got, np.asarray(expected["hidden"]), 1e-5)


@pytest.mark.once
@pytest.mark.parametrize("release", RELEASES)
def test_an_old_releases_preset_tells_its_dtype_and_tokenizer(release):
    assert format_of(OLD / release) == "keras_hub"
    with h5py.File(OLD / release / "model.weights.h5") as file:
        stored = file["layers/reversible_embedding/vars/0"].attrs.get("dtype", "float32")
    assert open_checkpoint(OLD / release).config["dtype"] == stored
    assert open_checkpoint(OLD / release, load_weights=False).tensors is None
    if "Gemma3" not in open_checkpoint(OLD / release).backbone:
        task = GemmaCausalLM.from_preset(OLD / release, load_weights=False)
        assert task.preprocessor.tokenizer.vocabulary_size() == 64
        vocabulary = (OLD / "vocabulary.spm").read_bytes()
        assert task.preprocessor.tokenizer.proto == vocabulary


@pytest.fixture
def preset(tmp_path):
    """A folder whose file of weights can be changed."""
    return Path(shutil.copytree(OLD / "keras_nlp_0.14.4", tmp_path / "preset"))


def arrays(place):
    found = H5Tensors(place / "model.weights.h5")
    return {name: found.read(name) for name in found.headers()}


def rewritten(place, rename):
    """Write the weights anew, under other names."""
    found = arrays(place)
    with h5py.File(place / "model.weights.h5", "w") as file:
        for name, array in found.items():
            file[rename(name)] = array
        return file


@pytest.mark.once
@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"layers/gemma_backbone/{name}",
        lambda name: f"_backbone/{name}",
        lambda name: name.replace("layers/", "_layer_checkpoint_dependencies/", 1),
    ],
)
def test_weights_files_of_tasks_and_of_older_keras_are_read(preset, rename):
    expected = arrays(preset)
    rewritten(preset, rename)
    with h5py.File(preset / "model.weights.h5", "a") as file:
        file["optimizer/vars/0"] = 3
    found = open_checkpoint(preset).tensors
    for name, array in expected.items():
        assert np.array_equal(found.read(name), array)


@pytest.mark.once
def test_a_weight_under_an_old_and_a_new_name_is_refused(preset):
    with h5py.File(preset / "model.weights.h5", "a") as file:
        file["_backbone/layers/rms_normalization/vars/0"] = np.ones(8, "float32")
    with pytest.raises(BadPresetError, match="layers/rms_normalization/vars/0 is there twice"):
        open_checkpoint(preset)


def _replace(file, array):
    name = f"{BLOCK}/pre_ffw_norm/vars/0"
    del file[name]
    file[name] = array


@pytest.mark.once
@pytest.mark.parametrize(
    "change, told",
    [
        (lambda f: f.pop(f"{BLOCK}/gating_ffw"), "gating_ffw/vars/0 .* is missing"),
        (lambda f: f.pop(BLOCK), "block_1/.* is missing.*; and 6 more"),
        (lambda f: f.update({"layers/lora/vars/0": np.zeros(3)}), r"lora/vars/0 \(3,\) is unknown"),
        (lambda f: f.update({"layers/lora/vars/0": np.zeros(3, "int8")}), "is unknown"),
        (lambda f: _replace(f, np.ones(8, "int32")), "pre_ffw_norm/vars/0 holds int32"),
    ],
)
def test_missing_and_unknown_weights_are_told_five_at_most(preset, change, told):
    with h5py.File(preset / "model.weights.h5", "a") as file:
        change(file)
    with pytest.raises(BadPresetError, match=told):
        open_checkpoint(preset)


@pytest.mark.once
def test_a_wrong_shape_is_told_with_the_name_of_the_weight(preset):
    name = f"{BLOCK}/gating_ffw/vars/0"
    with h5py.File(preset / "model.weights.h5", "a") as file:
        del file[name]
        file[name] = np.zeros(9, "float32")
    with pytest.raises(BadPresetError, match=rf"{name} has shape \(9,\), awaited \(8, 12\)"):
        open_checkpoint(preset)


@pytest.mark.once
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(preset, share):
    file = preset / "model.weights.h5"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(BadPresetError, match="model.weights.h5 is truncated or damaged"):
        open_checkpoint(preset)


@pytest.mark.once
def test_a_missing_file_is_named_where_weights_are_asked_for(preset):
    (preset / "model.weights.h5").unlink()
    assert open_checkpoint(preset, load_weights=False).backbone == "GemmaBackbone"
    with pytest.raises(BadPresetError, match="has no model.weights.h5. There is: assets, "):
        open_checkpoint(preset)


def sharded(place, largest):
    found = arrays(place)
    tensors = [Writable(k, a.shape, a.dtype.name, lambda a=a: a) for k, a in found.items()]
    (place / "model.weights.h5").unlink()
    write_h5(place, tensors, largest)
    return found


@pytest.mark.once
@pytest.mark.parametrize("largest", [100, 1000, 4000])  # the table of the vocabulary has 2048 bytes
def test_shards_there_and_back(preset, largest):
    expected = sharded(preset, largest)
    assert len(list(preset.glob("model_*.weights.h5"))) > 1
    found = open_checkpoint(preset).tensors
    assert found.headers().keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found.read(name), array)


@pytest.mark.once
def test_kerashub_reads_our_shards_and_we_read_its(tmp_path):
    hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    theirs = hub.models.GemmaBackbone(**SIZES, dtype="float32")
    random = np.random.default_rng(0)
    for variable in theirs.variables:
        variable.assign(random.normal(0, 0.4, variable.shape))
    token_ids = random.integers(0, 64, (2, 7)).astype("int32")
    theirs.save_to_preset(tmp_path / "theirs", max_shard_size=3000 / 1024**3)
    assert (tmp_path / "theirs/model.weights.json").exists()
    ours = loaded(tmp_path / "theirs")
    close(hidden(ours, token_ids), hidden(theirs, token_ids), 1e-5)
    theirs.save_to_preset(tmp_path / "whole")
    sharded(tmp_path / "whole", 3000)
    again = hub.models.GemmaBackbone.from_preset(str(tmp_path / "whole"))
    close(hidden(again, token_ids), hidden(theirs, token_ids), 1e-6)


@pytest.mark.once
@pytest.mark.parametrize(
    "table, told",
    [
        ({"weight_map": []}, "'weight_map' must be an object"),
        ({}, "'weight_map' must be an object"),
        (
            {"weight_map": {"/a/vars": "../x.h5"}},
            "names '../x.h5'; shards lie in the folder itself",
        ),
        ({"weight_map": {"/a/vars": "/etc/x.h5"}}, "shards lie in the folder itself"),
        ({"weight_map": {"/a/vars": "..\\x.h5"}}, "shards lie in the folder itself"),
        ({"weight_map": {"/a/vars": ["gone.h5"]}}, "has no gone.h5"),
        ({"weight_map": {"/a/vars": [{"x": 1}]}}, "shards lie|has no"),
    ],
)
def test_an_index_that_names_what_is_not_there_is_refused(preset, table, told):
    (preset / "model.weights.h5").unlink()
    (preset / "model.weights.json").write_text(json.dumps(table))
    with pytest.raises(BadPresetError, match=told):
        open_checkpoint(preset)


QUANTIZED = [
    ("Gemma", "int8", None),
    ("Gemma", "int4", None),
    ("Gemma", "int4", 4),
    ("Gemma", "int4", 3),  # the last block is not full
    ("Gemma", "int4", -1),
    ("Gemma3", "int8", None),
    ("Gemma3", "int4", 4),
]


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("kind, mode, block", QUANTIZED)
def test_quantized_presets_become_the_floats_that_kerashub_computes_with(
    tmp_path, kind, mode, block
):
    hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    options = {"image_size": None} if kind == "Gemma3" else {}
    theirs = getattr(hub.models, f"{kind}Backbone")(**SIZES, **options, dtype="float32")
    random = np.random.default_rng(0)
    for variable in theirs.variables:
        variable.assign(random.normal(0, 0.4, variable.shape))
    if mode == "int8":  # of weights alone, or activations would be rounded as well
        config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    elif block:
        config = keras.quantizers.Int4QuantizationConfig(
            block_size=block, activation_quantizer=None
        )
    else:
        config = None
    theirs.quantize(mode, config=config)
    theirs.save_to_preset(tmp_path / "preset")
    opened = open_checkpoint(tmp_path / "preset")
    assert opened.config["dtype"] == "float32"
    assert {s.dtype for s in opened.tensors.headers().values()} == {"float32"}
    token_ids = random.integers(0, 64, (2, 7)).astype("int32")
    close(hidden(loaded(tmp_path / "preset"), token_ids), hidden(theirs, token_ids), 1e-5)


@pytest.fixture
def int8(preset):
    """Weights of a feed-forward layer as int8, without their scale."""
    name = f"{BLOCK}/gating_ffw/vars/0"
    with h5py.File(preset / "model.weights.h5", "a") as file:
        del file[name]
        file[name] = np.ones((8, 12), "int8")
    return preset, name.removesuffix("/0")


@pytest.mark.once
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"1": np.ones(11, "float32")},
        {"1": np.ones((8, 12), "float32")},
        {"2": np.ones(12, "float32")},
        {"1": np.ones(12, "float32"), "2": np.ones(12, "float32")},
        {"1": np.ones(12, "f4"), "2": np.ones(12, "i1"), "3": np.ones(8, "f4")},
    ],
)
def test_a_quantization_that_is_not_read_is_told(int8, parts):
    place, name = int8
    with h5py.File(place / "model.weights.h5", "a") as file:
        for number, array in parts.items():
            file[f"{name}/{number}"] = array
    with pytest.raises(BadPresetError, match=f"{name}/0.*quantized in a way that is not read"):
        open_checkpoint(place)


@pytest.mark.once
def test_blocks_that_are_not_there_are_told_when_they_are_read(int8):
    place, name = int8
    with h5py.File(place / "model.weights.h5", "a") as file:
        del file[f"{name}/0"]
        file[f"{name}/0"] = np.ones((8, 6), "int8")
        file[f"{name}/1"] = file[f"{name}/2"] = np.ones((2, 12), "float32")
        file[f"{name}/3"] = np.full(8, 2.0, "float32")
    with pytest.raises(BadPresetError, match="rows in blocks that are not there"):
        open_checkpoint(place).tensors.read(f"{name}/0")
