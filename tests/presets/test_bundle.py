"""A preset folder: written whole, read with suspicion."""

import json

import pytest

from keras_gemma.presets import BadPresetError, bundle

pytestmark = pytest.mark.once

CONFIG = {
    "vocabulary_size": 32,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 24,
    "head_dim": 4,
}


def save_weights(path):
    path.write_bytes(b"weights")  # what is in them is of no concern to this folder


def files(**changes):
    config = {"name": "gemma_backbone", "dtype": "float32", **CONFIG, **changes}
    return {"config.json": bundle.serialized("GemmaBackbone", config)}


@pytest.fixture
def preset(tmp_path):
    return bundle.write(
        tmp_path / "preset",
        {**files(), "tokenizer.json": bundle.serialized("GemmaTokenizer", {})},
        save_weights,
        {"tokenizer": lambda folder: (folder / "vocabulary.spm").write_bytes(b"spm")},
    )


def test_what_was_written_is_read(preset):
    class_name, config = bundle.read_backbone(preset)
    assert class_name == "GemmaBackbone"
    assert config == {"name": "gemma_backbone", "dtype": "float32", **CONFIG}
    assert (preset / "model.weights.h5").read_bytes() == b"weights"
    assert (preset / "assets/tokenizer/vocabulary.spm").read_bytes() == b"spm"


def test_a_write_that_fails_leaves_the_old_folder_as_it_was(preset):
    before = {path: path.read_bytes() for path in preset.rglob("*") if path.is_file()}

    def fail(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        bundle.write(preset, files(num_layers=3), fail)
    assert {path: path.read_bytes() for path in preset.rglob("*") if path.is_file()} == before
    with pytest.raises(OSError, match="disk full"):
        bundle.write(preset.parent / "new", files(), fail)
    assert [path.name for path in preset.parent.iterdir()] == ["preset"]


def test_writing_again_replaces_the_preset_and_nothing_else(preset):
    (preset / "notes.txt").write_text("mine")
    (preset / "model_00000.weights.h5").touch()  # of an older, sharded save
    bundle.write(preset, files(dropout=0.1), save_weights)
    assert bundle.read_backbone(preset)[1]["dropout"] == 0.1
    assert sorted(path.name for path in preset.iterdir()) == [
        "config.json",
        "model.weights.h5",
        "notes.txt",
    ]


def test_the_config_moves_last_so_that_no_half_new_folder_loads(preset, monkeypatch):
    from pathlib import Path

    rename = Path.rename

    def killed(self, target):
        if self.name == "model.weights.h5":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        bundle.write(preset, files(), save_weights)
    with pytest.raises(BadPresetError, match="has no config.json"):
        bundle.read_backbone(preset)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(preset, share):
    data = (preset / "config.json").read_bytes()
    (preset / "config.json").write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadPresetError, match="config.json is not whole JSON"):
        bundle.read_backbone(preset)


def test_a_missing_file_is_named(preset):
    (preset / "config.json").unlink()
    with pytest.raises(BadPresetError, match="has no config.json. There is: assets, "):
        bundle.read_backbone(preset)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"num_layers": 10**9}, "num_layers=1000000000 must be a whole number from 1 to 512"),
        ({"hidden_dim": -8}, "hidden_dim=-8"),
        ({"head_dim": "4"}, "head_dim='4'"),
        ({"head_dim": 5}, "must be even"),
        ({"num_layers": True}, "num_layers=True"),
        ({"num_layers": 2.0}, "num_layers=2.0"),
        ({"num_query_heads": 3, "num_key_value_heads": 2}, "must divide"),
        ({"intermediate_dim": 25}, "two branches"),
        ({"dropout": 1}, "dropout=1 must be a number from 0 to 0.999"),
        ({"use_post_ffw_norm": 1}, "use_post_ffw_norm=1 must be one of True, False"),
        ({"attention_logit_soft_cap": -1}, "attention_logit_soft_cap=-1"),
        ({"auto_map": {"x": "y.z"}}, "no field 'auto_map'"),
        ({"num_layer": 2}, "did you mean 'num_layers'"),
        ({"dtype": "int2_from_float32"}, "dtype='int2_from_float32'"),
        ({"dtype": {"class_name": "QuantizedDTypePolicy"}}, "Quantized presets"),
        ({"name": "../x"}, "no name of a layer"),
    ],
)
def test_a_field_out_of_its_range_is_told_with_the_range(tmp_path, changes, told):
    folder = bundle.write(tmp_path / "preset", files(**changes), save_weights)
    with pytest.raises(BadPresetError, match="config.json.*" + told.replace("/", ".")):
        bundle.read_backbone(folder)


def test_a_missing_size_is_told(tmp_path):
    record = files()
    del record["config.json"]["config"]["head_dim"]
    folder = bundle.write(tmp_path / "preset", record, save_weights)
    with pytest.raises(BadPresetError, match="needs the field 'head_dim'"):
        bundle.read_backbone(folder)


def test_keras_records_of_dtypes_become_names(tmp_path):
    record = {"class_name": "DTypePolicy", "module": "keras", "config": {"name": "bfloat16"}}
    folder = bundle.write(tmp_path / "preset", files(dtype=record), save_weights)
    assert bundle.read_backbone(folder)[1]["dtype"] == "bfloat16"


def test_classes_of_kerasnlp_are_those_of_kerashub(preset):
    text = (preset / "config.json").read_text()
    (preset / "config.json").write_text(text.replace("keras_hub>", "keras_nlp>"))
    assert bundle.read_backbone(preset)[0] == "GemmaBackbone"


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"registered_name": "os>system", "config": {}}', "describes a 'os>system'"),
        ('{"registered_name": "keras_hub>BertBackbone"}', "this library reads GemmaBackbone"),
        ('{"registered_name": "keras_hub>GemmaTokenizer", "config": {}}', "not a backbone"),
        ('{"registered_name": "keras_hub>GemmaBackbone"}', "'config' must be an object"),
        ('{"model_type": "gemma"}', "Hugging Face"),
        ("[1]", "must hold an object"),
        ("[" * 100_000, "not whole JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not whole JSON"),
        ('"' + "x" * 2**23 + '"', "too large"),
        ("{\x00", "not whole JSON"),
    ],
)
def test_a_config_that_is_something_else_runs_and_allocates_nothing(preset, text, told):
    (preset / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadPresetError, match=told):
        bundle.read_backbone(preset)


def test_the_json_is_the_same_as_keras_hub_writes_for_the_class_names(preset):
    record = json.loads((preset / "config.json").read_text())
    assert record["registered_name"] == "keras_hub>GemmaBackbone"
    assert record["module"] == "keras_hub.src.models.gemma.gemma_backbone"
    hub = pytest.importorskip("keras_hub")
    for name, module in bundle.MODULES.items():
        if module.startswith("keras_gemma"):  # classes of ours that KerasHub has no like of
            assert not hasattr(hub.models, name)
        else:
            assert getattr(hub.models, name).__module__ == module


def test_a_file_that_others_parse_is_named_when_it_is_missing_or_damaged(tmp_path):
    vocabulary = tmp_path / "vocabulary.spm"
    for error in (ValueError("no such thing"), OSError("cut")):
        told = pytest.raises(BadPresetError, match="vocabulary.spm.*damaged")
        with told, bundle.reading(vocabulary):
            raise error
    with pytest.raises(BadPresetError, match="no vocabulary.spm"), bundle.reading(vocabulary):
        vocabulary.read_bytes()
