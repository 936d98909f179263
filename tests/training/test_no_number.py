"""A run that comes to no number: what is kept of it, what is told, and how it goes on."""

import json

import keras
import numpy as np
import pytest
from training.runs import fit, saved

from keras_gemma.optimizers import AdamW
from keras_gemma.training import checkpoint_files as files

pytestmark = pytest.mark.once


class SpoilAt(keras.callbacks.Callback):
    """Sets a weight to NaN before a step, as an update that went wrong does."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.fit_run.step == self.step:
            getattr(self.model, "jax_state_sync", lambda: None)()
            scale = self.model.backbone.get_layer("final_normalization").scale
            scale.assign(scale * float("nan"))


def compiled(model, **options):
    model.compile(optimizer=AdamW(**options))
    model.optimizer.build(model.trainable_variables)
    return model


def test_no_checkpoint_is_written_of_weights_that_are_no_numbers(new_model, texts, tmp_path):
    told = r"weights are no finite numbers at step 1; .* there is no checkpoint before it"
    with pytest.raises(ValueError, match=told):
        fit(compiled(new_model(), learning_rate=1e38), texts, tmp_path)
    assert not saved(tmp_path)
    with pytest.raises(ValueError, match="at step 1; "):  # the last step of all, too
        fit(compiled(new_model(), learning_rate=1e38), texts[:4], tmp_path, epochs=1, every=9)
    assert not saved(tmp_path) and "weights_at_end" not in (tmp_path / "receipt.json").read_text()


def test_a_run_goes_on_from_there_with_a_lower_rate(new_model, texts, tmp_path):
    with pytest.raises(ValueError, match=r"step_4.npz, and the last good checkpoint is .*00003"):
        fit(compiled(new_model(), learning_rate=0.01), texts, tmp_path, SpoilAt(3))
    path = tmp_path / "checkpoints" / "step_00000003.safetensors"
    assert all(np.isfinite(array).all() for array in files.read(path).arrays.values())
    model = compiled(new_model(), learning_rate=0.001, global_clipnorm=1.0)
    with pytest.warns(UserWarning, match="learning_rate 0.01 there, 0.001 here. The run goes"):
        fit(model, texts, tmp_path, resume=True)
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == np.float32(0.001)
    assert saved(tmp_path)[-1] == "step_00000008"


def test_a_rate_that_a_callback_changed_is_restored(new_model, texts, tmp_path):
    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.005

    fit(compiled(new_model(), learning_rate=0.01), texts, tmp_path, Halve(), best="loss")
    model = compiled(new_model(), learning_rate=0.01)
    fit(model, texts, tmp_path, epochs=3, resume=True, best="loss")
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == np.float32(0.005)


def test_of_several_steps_in_one_execution_all_batches_are_left(model, texts, tmp_path):
    if keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    model.compile(optimizer=AdamW(0.01), steps_per_execution=2)
    with pytest.raises(ValueError, match=r"one of the 2 from .*nan_step_3.npz to nan_step_4.npz"):
        fit(model, texts, tmp_path, SpoilAt(2))
    ids = [np.load(tmp_path / f"nan_step_{step}.npz")["token_ids"] for step in (3, 4)]
    assert not np.array_equal(*ids)


def test_the_command_that_begins_anew_is_told_of_a_run_of_a_recipe(model, texts, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"optimizer": {"learning_rate": 0.01}}))
    told = rf"`keras-gemma train \S+recipe.json --set optimizer.learning_rate=0.003 --out {tmp_path}_2`"
    with pytest.raises(ValueError, match=told):
        fit(model, texts, tmp_path, SpoilAt(1))
