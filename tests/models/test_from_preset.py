"""`from_preset` of checkpoints that do not fit: told, or loaded as far as they go where that is asked."""

import json
import warnings

import keras
import numpy as np
import pytest
from conftest import SIZES, loud
from safetensors.numpy import load_file, save_file

from keras_gemma import GemmaBackbone, GemmaCausalLM, device_memory, export_checkpoint
from keras_gemma.arrays import fetch, nbytes
from keras_gemma.models import preset_model
from keras_gemma.out_of_memory import OutOfMemoryError
from keras_gemma.presets import BadPresetError

LOST = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
NAMES = "one", "more"


@pytest.fixture(scope="module")
def first():
    return loud(GemmaBackbone(**SIZES))


@pytest.fixture
def folder(first, tmp_path):
    return export_checkpoint(first, tmp_path / "out", "huggingface")


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def weights(model):
    return {variable.path: np.array(fetch(variable)) for variable in model.weights}


@pytest.mark.parametrize("cls", [GemmaBackbone, GemmaCausalLM])
def test_what_does_not_fit_is_an_error_unless_it_may_be_passed_over(first, folder, cls):
    def edit(tensors):
        tensors["another"] = tensors.pop(LOST)
        tensors[NORM] = tensors[NORM][:-1]

    change(folder, edit)
    with pytest.raises(BadPresetError, match=rf"{NORM} has shape .*{LOST} .* is missing"):
        cls.from_preset(folder)
    keras.utils.set_random_seed(7)
    with pytest.warns(UserWarning) as told:
        model = cls.from_preset(folder, strict=False)
    said = [str(each.message) for each in told if each.category is UserWarning]
    assert len(said) == 2
    assert "2 tensors could not be loaded" in said[0] and LOST in said[0] and NORM in said[0]
    assert "1 tensors were not used: another" in said[1]
    loaded, given = weights(getattr(model, "backbone", model)), weights(first)
    differ = [path for path in given if not np.array_equal(loaded[path], given[path])]
    assert differ == ["decoder_block_1/attention/query/kernel", "final_normalization/scale"]
    # Those are as a new model's, not what was in memory before.
    drawn = loaded["decoder_block_1/attention/query/kernel"]
    assert np.isfinite(drawn).all() and 0 < drawn.std() < 1
    assert not loaded["final_normalization/scale"].any()


def test_a_checkpoint_that_fits_is_loaded_alike_and_without_a_word(first, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = GemmaBackbone.from_preset(folder, strict=False)
    loaded = weights(model)
    for path, array in weights(first).items():
        np.testing.assert_array_equal(loaded[path], array)


def test_weights_that_are_no_numbers_are_refused_unless_asked_for(folder):
    change(folder, lambda tensors: tensors[NORM].__setitem__(3, np.nan))
    with pytest.raises(BadPresetError, match=rf"{NORM} is not a finite number.*check_finite=False"):
        GemmaBackbone.from_preset(folder)
    loaded = weights(GemmaBackbone.from_preset(folder, check_finite=False))
    assert np.flatnonzero(np.isnan(loaded["final_normalization/scale"])).tolist() == [3]
    task = GemmaCausalLM.from_preset(folder, check_finite=False)
    assert np.isnan(weights(task.backbone)["final_normalization/scale"]).any()


@keras.saving.register_keras_serializable(package="tests")
class Registered(GemmaCausalLM):
    """A user's."""


class Unregistered(GemmaCausalLM):
    """A user's that Keras isn't told of."""


@pytest.mark.parametrize("kind, found", [(Registered, Registered), (Unregistered, GemmaCausalLM)])
def test_a_class_of_ones_own_comes_back(first, tmp_path, kind, found):
    kind(first).save_to_preset(tmp_path)
    assert type(GemmaCausalLM.from_preset(tmp_path)) is found
    assert type(kind.from_preset(tmp_path)) is kind
    # Where the class is not known, here or in KerasHub, its base is.
    task = json.loads((tmp_path / "task.json").read_text())
    assert task["registered_name"] == "keras_hub>GemmaCausalLM"


def test_a_backbone_of_ones_own_comes_back(first, tmp_path):
    class Mine(GemmaBackbone):
        """A user's."""

    first.save_to_preset(tmp_path)
    mine = Mine.from_preset(tmp_path)
    mine.save_to_preset(tmp_path / "again")
    assert type(Mine.from_preset(tmp_path / "again")) is Mine
    assert type(GemmaBackbone.from_preset(tmp_path / "again")) is GemmaBackbone


def test_weights_that_are_larger_than_a_file_may_be_come_in_several(first, tmp_path):
    size = sum(map(nbytes, first.variables)) / 2**30
    model = GemmaCausalLM(first)
    model.save_to_preset(tmp_path / "one", max_shard_size=size)
    model.save_to_preset(tmp_path / "more", max_shard_size=0.6 * size)
    files = [sorted(path.name for path in (tmp_path / name).glob("*weights*")) for name in NAMES]
    assert files[0] == ["model.weights.h5"]
    assert files[1][0] == "model.weights.json" and len(files[1]) > 2
    for name in NAMES:
        loaded = weights(GemmaCausalLM.from_preset(tmp_path / name).backbone)
        for path, array in weights(first).items():
            np.testing.assert_array_equal(loaded[path], array)


def test_a_model_without_an_optimizer_is_saved_and_loaded(first, tmp_path):
    model = GemmaCausalLM(first)
    model.compile(optimizer=None)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").optimizer is None


def test_a_summary_takes_keras_arguments_in_their_order(first):
    lines = []
    GemmaCausalLM(first).summary(100, None, lines.append)
    assert max(map(len, "".join(lines).splitlines())) <= 100


def test_weights_without_room_are_not_loaded(first, tmp_path, monkeypatch):
    first.save_to_preset(tmp_path / "floats")
    rounded = GemmaCausalLM(loud(GemmaBackbone(**SIZES)))
    rounded.quantize("int8")
    rounded.save_to_preset(tmp_path / "whole")
    size = sum(map(nbytes, first.variables))

    def tried(name, free, **options):
        monkeypatch.setattr(device_memory, "free", lambda: free)
        return GemmaBackbone.from_preset(tmp_path / name, **options)

    with pytest.raises(
        OutOfMemoryError, match='floats does not fit .* dtype="bfloat16" takes half'
    ):
        tried("floats", size - 1)
    tried("floats", size)
    tried("floats", size - 1, dtype="bfloat16")
    tried("whole", size // 2)
    with pytest.raises(OutOfMemoryError, match="whole does not fit in memory: its weights take"):
        tried("whole", size // 5)
    tried("floats", None)  # where nothing tells, it is tried


def test_a_backend_without_room_for_weights_is_explained(first, tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    first.save_to_preset(tmp_path)
    monkeypatch.setattr(preset_model, "load_quantized", fails)
    with pytest.raises(OutOfMemoryError, match="does not fit in memory: .* are free"):
        GemmaBackbone.from_preset(tmp_path)
