"""Adapters to files and back; files of another base, rank or kind, and damaged ones."""

import keras
import numpy as np
import pytest
from conftest import close
from lora_examples import BATCH, IDS, adapted, drawn, logits, model

from keras_gemma import GemmaCausalLM
from keras_gemma.models.lora import TARGETS
from keras_gemma.presets import BadPresetError


@pytest.mark.parametrize("way", [{}, {"alpha": 7, "use_rslora": True}, {"use_dora": True}])
def test_an_adapter_is_saved_and_loaded(way, tmp_path):
    lm = adapted(**way)
    lm.backbone.save_lora_weights(tmp_path / "a.lora.h5")
    fresh = model()
    fresh.backbone.load_lora_weights(tmp_path / "a.lora.h5")
    close(logits(fresh), logits(lm), 1e-6)
    assert fresh.backbone.active_lora == "default"
    assert fresh.backbone._layers_of("default")[0].branches["default"].options == (
        lm.backbone._layers_of("default")[0].branches["default"].options
    )
    drawn(fresh.backbone, seed=9)
    fresh.backbone.load_lora_weights(tmp_path / "a.lora.h5")  # into the one that is there
    close(logits(fresh), logits(lm), 1e-6)
    fresh.backbone.load_lora_weights(tmp_path / "a.lora.h5", name="again")
    assert fresh.backbone.lora_names == ["again", "default"]


def test_a_callback_saves_while_fit_runs(tmp_path):
    class Saving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            lm.backbone.save_lora_weights(tmp_path / f"{epoch + 1}.lora.h5")
            made.append(logits(lm))

    lm, made = model(num_layers=1), []
    lm.backbone.enable_lora(2)
    lm.compile(optimizer=keras.optimizers.Adam(0.05))
    lm.fit(BATCH, IDS, epochs=2, callbacks=[Saving()], verbose=0)
    close(logits(lm), made[1], 1e-6)
    for number, expected in enumerate(made, 1):
        fresh = model(num_layers=1)
        fresh.backbone.load_lora_weights(tmp_path / f"{number}.lora.h5")
        close(logits(fresh), expected, 1e-6)
    assert not np.allclose(*made)


def test_a_callback_asks_for_weights_within_an_epoch(tmp_path):
    """By the name of a model or of a part of it, whose weights Keras on JAX holds apart then."""

    def asking(batch, logs):
        lm.backbone.save_lora_weights(tmp_path / "a.lora.h5")
        lm.save_to_preset(tmp_path / "preset")
        asked.append([lm.score(IDS), lm.evaluate(BATCH, IDS, verbose=0)])

    lm, asked, losses = model(num_layers=1), [], []
    for callbacks in ([], [keras.callbacks.LambdaCallback(on_train_batch_end=asking)]):
        lm = model(num_layers=1)
        keras.utils.set_random_seed(1)
        lm.backbone.enable_lora(2)
        lm.compile(optimizer=keras.optimizers.SGD(0.05))
        lm.fit(BATCH, IDS, batch_size=1, callbacks=callbacks, shuffle=False, verbose=0)
        losses.append(logits(lm))
    assert len(asked) == 2
    close(*losses, 1e-6)
    fresh = model(num_layers=1)
    fresh.backbone.load_lora_weights(tmp_path / "a.lora.h5")
    close(logits(fresh), logits(lm), 1e-6)


def test_saved_models_have_the_adapter_in_their_kernels(tmp_path):
    """As KerasHub's: what is loaded is plain, and computes the same."""
    lm = adapted(use_dora=True, target_layer_names=list(TARGETS))
    expected = logits(lm)
    lm.save_to_preset(tmp_path / "preset")
    lm.save(tmp_path / "whole.keras")
    lm.save_weights(tmp_path / "alone.weights.h5")
    lm.export_to_transformers(tmp_path / "theirs")
    plain = model(seed=3)
    plain.load_weights(tmp_path / "alone.weights.h5")
    read = [
        GemmaCausalLM.from_preset(str(tmp_path / "preset")),
        keras.saving.load_model(tmp_path / "whole.keras"),
        plain,
        GemmaCausalLM.from_preset(str(tmp_path / "theirs")),
    ]
    for again in read:
        close(logits(again), expected, 1e-5)
        assert not again.backbone.lora_names
    lm.load_weights(tmp_path / "alone.weights.h5")  # into one that has an adapter
    close(logits(lm), expected, 1e-5)


@pytest.mark.once
def test_an_adapter_of_another_base_is_refused(tmp_path):
    lm = adapted()
    lm.backbone.save_lora_weights(tmp_path / "a.lora.h5")
    other = model(seed=4)
    with pytest.raises(
        BadPresetError, match="another base: its fingerprint is .*that of this base is"
    ):
        other.backbone.load_lora_weights(tmp_path / "a.lora.h5")
    assert not other.backbone.lora_names
    other.backbone.load_lora_weights(tmp_path / "a.lora.h5", strict=False)
    assert other.backbone.active_lora == "default"
    rounded = model(dtype="bfloat16")
    rounded.backbone.load_lora_weights(tmp_path / "a.lora.h5")  # the same, rounded
    assert rounded.backbone.active_lora == "default"
    told = r"value/kernel has a \(2, 32, 3\), b .*awaited a \(2, 40, 3\).* for LoRA of rank 3.*another base"
    with pytest.raises(BadPresetError, match=told):
        model(hidden_dim=40).backbone.load_lora_weights(tmp_path / "a.lora.h5")
    with pytest.raises(BadPresetError, match="adapts layer 19, which is no dense layer"):
        model(num_layers=1).backbone.load_lora_weights(tmp_path / "a.lora.h5")


@pytest.mark.once
def test_a_file_of_another_rank_or_kind_is_refused(tmp_path):
    adapted(alpha=6).backbone.save_lora_weights(tmp_path / "a.lora.h5")
    for there, told in (
        (
            {"rank": 5},
            "LoRA of rank 3, alpha 6 on query, value of 4 layers; .*LoRA of rank 5, alpha 5",
        ),
        ({"rank": 3, "alpha": 6, "use_dora": True}, "here is DoRA of rank 3, alpha 6"),
        ({"rank": 3, "alpha": 6, "target_layer_names": ["key"]}, "here is .* on key of 2 layers"),
    ):
        lm = model()
        lm.backbone.enable_lora(**there)
        drawn(lm.backbone)
        before = logits(lm)
        with pytest.raises(BadPresetError, match=told):
            lm.backbone.load_lora_weights(tmp_path / "a.lora.h5")
        np.testing.assert_array_equal(logits(lm), before)


@pytest.mark.once
def test_damaged_files_are_refused(tmp_path):
    import h5py

    backbone = adapted().backbone
    path = tmp_path / "a.lora.h5"
    backbone.save_lora_weights(path)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        number = min(key for key in file["lora"] if key != "vars")
    home = f"lora/{number}/vars"
    a = f"{home}/lora_kernel_a"

    def renamed(file):
        file.move(a, f"{home}/other")

    def unfinite(file):
        numbers = file[a][()]
        numbers[0, 0, 0] = np.nan
        file[a][...] = numbers

    def without_rank(file):
        del file["lora/vars/rank"]

    def torn(file):
        del file[a]

    def misshapen(file):
        del file[a]
        file[a] = np.zeros((2, 2), "float32")

    for change, told in (
        (renamed, "is no part of a .lora.h5 file"),
        (unfinite, "not finite"),
        (without_rank, "has no LoRA weights"),
        (torn, "awaited lora_kernel_a, lora_kernel_b"),
        (misshapen, r"has a \(2, 2\)"),
    ):
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            assert a in file
            change(file)
        with pytest.raises(BadPresetError, match=told):
            model().backbone.load_lora_weights(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadPresetError, match="truncated or damaged"):
        model().backbone.load_lora_weights(path)
    with pytest.raises(BadPresetError, match="There is no file"):
        model().backbone.load_lora_weights(tmp_path / "none.lora.h5")
