"""A run of fit is killed anywhere, resumed, and nobody can tell by its numbers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from training.runs import KillAt, Killed, fit, losses, numbers, saved

from keras_gemma.training import Checkpoint

STEPS = 8


@pytest.fixture
def whole(model, texts, tmp_path):
    """The numbers and losses of a run that nobody stopped."""
    fit(model, texts, tmp_path / "whole")
    return numbers(model), losses(tmp_path / "whole")


def test_killed_at_any_step_and_resumed_it_ends_with_the_very_numbers(
    model, texts, tmp_path, whole
):
    for step in range(1, STEPS):
        folder = tmp_path / f"killed_{step}"
        with pytest.raises(Killed):
            fit(model.again(), texts, folder, KillAt(step), every=2)
        # Where there is a checkpoint, the run's seed is in it: another one is set.
        seed = 77 if step > 1 else 1
        fit(model.again(seed), texts, folder, every=2, resume=True)
        assert (numbers(model), losses(folder)) == whole, step


def test_killed_by_the_system_it_ends_with_the_very_numbers(tmp_path):
    """Processes of their own, one after another: whatever lives in memory is gone."""

    def start(*runs):
        script = Path(__file__).with_name("killed_process.py")
        command = [sys.executable, str(script), *map(str, runs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.split("digest ")[-1], done.stderr

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, digest, told = start(whole, 0, killed, 5)  # in the second epoch
    assert code == -signal.SIGKILL and len(digest) == 65, told
    assert start(killed, 0)[1] == digest
    assert losses(killed) == losses(whole)


@pytest.mark.once
def test_a_run_is_not_overwritten_and_goes_on_only_where_that_is_asked(model, texts, tmp_path):
    fit(model, texts, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="holds a run already, up to step_00000004. Resume it"):
        fit(model, texts, tmp_path, epochs=1)
    before = numbers(model)
    fit(model, texts, tmp_path, epochs=1, resume=True)
    assert numbers(model) == before  # it had ended
    fit(model, texts, tmp_path, epochs=2, resume=True)
    assert [step for step, _ in losses(tmp_path)] == list(range(1, 9))


@pytest.mark.once
def test_other_data_are_refused_and_what_differs_is_told(model, texts, tmp_path):
    fit(model, texts, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="over other data: sha256 [0-9a-f]{64} there"):
        fit(model, [*texts[:-1], "another text"], tmp_path, resume=True)
    with pytest.raises(ValueError, match="over other data: batches 4 there, 3 here"):
        fit(model, texts[:12], tmp_path, resume=True)
    with pytest.raises(ValueError, match="batch_size 4 there, 5 here|batches 4 there, 3 here"):
        fit(model, texts, tmp_path, resume=True, batch_size=5)


@pytest.mark.once
def test_another_model_is_refused_and_what_differs_is_told(new_model, texts, tmp_path):
    fit(new_model(), texts, tmp_path, epochs=1)
    with pytest.raises(
        ValueError, match=r"ffw_gating/kernel has shape \(24, 32\), here \(24, 64\)"
    ):
        fit(new_model(intermediate_dim=128), texts, tmp_path, resume=True)
    with pytest.raises(ValueError, match="its weights are 11 variables, here they are 20"):
        fit(new_model(num_layers=2), texts, tmp_path, resume=True)
    model = new_model()
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="its optimizer are 24 variables, here they are 2"):
        fit(model, texts, tmp_path, resume=True)


@pytest.mark.once
def test_what_is_frozen_is_not_written_and_another_base_is_refused(model, texts, tmp_path):
    for layer in model.backbone.layers:
        layer.trainable = layer.name == "final_normalization"
    model.backbone.token_embedding.trainable = True
    model.compile()
    table, block = model.backbone.token_embedding, model.backbone.get_layer("decoder_block_0")
    block_size = sum(int(np.prod(v.shape)) for v in block.variables if np.prod(v.shape) > 4096)
    assert block_size == 0  # this model is too small for any to be left out …
    fit(model, texts, tmp_path / "small", epochs=1)
    table.trainable = False
    model.compile()
    fit(model, texts, tmp_path / "a", epochs=1)
    sizes = [next((tmp_path / f / "checkpoints").iterdir()).stat().st_size for f in ("small", "a")]
    assert sizes[0] - sizes[1] > 3 * 4 * np.prod(table.embeddings.shape)  # … but the table
    table.embeddings.assign(table.embeddings + 1.0)
    with pytest.raises(ValueError, match="embeddings, which is not trained, has other numbers"):
        fit(model, texts, tmp_path / "a", resume=True)


@pytest.mark.once
def test_the_newest_and_the_best_stay(model, texts, tmp_path):
    seen = []

    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = [2.0, 1.0, 3.0, 4.0][epoch]
            seen.append(epoch)

    model.fit(
        texts,
        epochs=4,
        batch_size=4,
        verbose=0,
        callbacks=[Worse(), Checkpoint(tmp_path, every=1, keep=2, best="val_loss")],
    )
    assert seen == [0, 1, 2, 3]
    assert saved(tmp_path) == ["step_00000008", "step_00000015", "step_00000016"]


@pytest.mark.once
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(model, texts, tmp_path, whole):
    with pytest.raises(Killed):
        fit(model.again(), texts, tmp_path / "a", KillAt(5))
    newest = tmp_path / "a" / "checkpoints" / "step_00000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="step_00000005.*truncated.*before it is taken"):
        fit(model.again(), texts, tmp_path / "a", resume=True)
    assert numbers(model) == whole[0]


@pytest.mark.once
def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_batch(model, texts, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                scale = self.model.backbone.get_layer("final_normalization").scale
                scale.assign(scale * float("nan"))

    with pytest.raises(
        ValueError, match="The loss is nan at step 5; its batch lies in .*step_5.npz"
    ):
        fit(model, texts, tmp_path, Spoil())
    with np.load(tmp_path / "nan_step_5.npz") as batch:
        assert set(batch) == {"token_ids", "padding_mask", "labels", "weights"}
        assert batch["token_ids"].shape == (4, 24)
    assert saved(tmp_path)[-1] == "step_00000004"
    fit(model.again(), texts, tmp_path, resume=True)  # and goes on


@pytest.mark.once
@pytest.mark.parametrize("number, ends", [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
def test_a_signal_lets_the_step_end_and_saves_it(model, texts, tmp_path, whole, number, ends):
    class Send(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.fit_run.step == 5:
                os.kill(os.getpid(), getattr(signal, number))

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    with pytest.raises(ends) as raised:
        fit(model.again(), texts, tmp_path / "a", Send(), every=100)
    assert time.monotonic() - start < 10
    assert getattr(raised.value, "code", 143) == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert saved(tmp_path / "a") == ["step_00000006"]
    fit(model.again(), texts, tmp_path / "a", resume=True)
    assert numbers(model) == whole[0]


@pytest.mark.once
def test_a_second_signal_acts_at_once_and_the_old_checkpoint_is_good(model, texts, tmp_path):
    class SendTwice(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
                raise AssertionError("The second one did not act.")

    with pytest.raises(KeyboardInterrupt):
        fit(model, texts, tmp_path, SendTwice())
    assert saved(tmp_path) == ["step_00000001", "step_00000002"]


@pytest.mark.once
def test_two_runs_at_once_in_a_folder_are_refused(model, texts, tmp_path):
    class Another(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(ValueError, match=f"Another run works .*process {os.getpid()} on "):
                fit(model, texts, tmp_path, resume=True)
            raise Killed

    with pytest.raises(Killed):
        fit(model, texts, tmp_path, Another())
    fit(model.again(), texts, tmp_path, resume=True)  # the lock went with its fit


@pytest.mark.once
def test_steps_of_an_epoch_go_on_where_the_last_one_ended(model, texts, tmp_path):
    fit(model, texts, tmp_path / "whole", epochs=3, steps_per_epoch=3)
    whole = numbers(model), losses(tmp_path / "whole")
    with pytest.raises(Killed):
        fit(model.again(), texts, tmp_path / "a", KillAt(5), epochs=3, steps_per_epoch=3)
    fit(model.again(), texts, tmp_path / "a", epochs=3, steps_per_epoch=3, resume=True)
    assert (numbers(model), losses(tmp_path / "a")) == whole


@pytest.mark.once
def test_batches_of_a_generator_are_drawn_up_to_where_the_run_was(model, texts, tmp_path):
    def batches():
        for first in range(0, 12, 2):
            yield model.preprocessor(texts[first : first + 2])

    options = {"epochs": 1, "steps_per_epoch": 6, "batch_size": None, "shuffle": False}
    fit(model, batches(), tmp_path / "whole", **options)
    whole = numbers(model)
    with pytest.raises(Killed):
        fit(model.again(), batches(), tmp_path / "a", KillAt(4), **options)
    with pytest.warns(UserWarning, match="can't seek: 4 batches of epoch 1 are drawn and left out"):
        fit(model.again(), batches(), tmp_path / "a", resume=True, **options)
    assert numbers(model) == whole
    with pytest.raises(ValueError, match="epoch 2 of a generator, which can't be begun anew"):
        fit(model, batches(), tmp_path / "a", resume=True, **{**options, "epochs": 2})


@pytest.mark.once
def test_a_data_set_that_shuffles_by_itself_goes_on_in_its_order(model, texts, tmp_path):
    """By Python's and NumPy's generators, as Keras shuffles the batches of a PyDataset."""

    class Pairs(keras.utils.PyDataset):
        num_batches = 6

        def __getitem__(self, index):
            return model.preprocessor(texts[2 * index : 2 * index + 2])

    fit(model.again(), Pairs(), tmp_path / "whole", batch_size=None)
    whole = numbers(model)
    for step in (2, 6, 8):
        with pytest.raises(Killed):
            fit(model.again(), Pairs(), tmp_path / f"{step}", KillAt(step), batch_size=None)
        fit(model.again(77), Pairs(), tmp_path / f"{step}", batch_size=None, resume=True)
        assert numbers(model) == whole, step


@pytest.mark.once
@pytest.mark.parametrize("every", [0, "soon", "5", -1])
def test_an_interval_that_is_none_is_told(every):
    with pytest.raises(ValueError, match="a number of steps or a time such as"):
        Checkpoint("runs/a", every=every)
