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

from keras_gemma.training import Checkpoint, receipt

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
    def resumed(told, model):
        with pytest.raises(ValueError, match=f"is of another model: {told}. Give the model"):
            fit(model, texts, tmp_path, resume=True)

    fit(new_model(), texts, tmp_path, epochs=1)
    resumed("intermediate_dim 64 there, 128 here", new_model(intermediate_dim=128))
    resumed("final_logit_soft_cap None there, 3.0 here", new_model(final_logit_soft_cap=3.0))
    resumed("dtype float32 there, bfloat16 here", new_model(dtype="bfloat16"))
    model = new_model()
    model.compile(optimizer=keras.optimizers.AdamW(0.1))
    resumed("optimizer AdamW of keras_gemma there, AdamW of keras here", model)
    model = new_model()
    model.backbone.token_embedding.trainable = False
    model.compile()
    resumed("its optimizer are 24 variables, here they are 22", model)


@pytest.mark.once
def test_adapters_of_another_scale_are_another_model(new_model, texts, tmp_path):
    def adapted(**options):
        model = new_model()
        model.backbone.enable_lora(2, **options)
        model.compile()
        return model

    fit(adapted(), texts, tmp_path, epochs=1)
    for options in ({"alpha": 8}, {"use_rslora": True}):
        with pytest.raises(ValueError, match=r"is of another model: adapters \["):
            fit(adapted(**options), texts, tmp_path, resume=True)


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
    for path in newest.parent.iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="The checkpoint before it is taken"),
        pytest.raises(ValueError, match="holds a run already, and its checkpoints are damaged"),
    ):
        fit(model.again(), texts, tmp_path / "a", resume=True)


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
@pytest.mark.parametrize("every", [1, 100])
def test_a_signal_while_validating_does_not_wait_for_its_end(model, texts, tmp_path, every):
    class Send(keras.callbacks.Callback):
        tested = 0

        def on_test_batch_begin(self, batch, logs=None):
            self.tested += 1
            if self.tested == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    options, send = {"validation_data": texts, "every": every, "best": "val_loss"}, Send()
    history = fit(model, texts, tmp_path / "whole", **options).history
    whole = numbers(model), losses(tmp_path / "whole")
    with pytest.raises(SystemExit):
        fit(model.again(), texts, tmp_path / "a", send, **options)
    assert send.tested == 1 and saved(tmp_path / "a")[-1] == "step_00000004"
    again = fit(model.again(77), texts, tmp_path / "a", resume=True, **options).history
    assert (numbers(model), losses(tmp_path / "a"), again) == (*whole, history)


@pytest.mark.once
@pytest.mark.parametrize("held_out", [False, True])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_there(
    model, texts, tmp_path, whole, held_out
):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.fit_run.step == 2

    options = {"validation_data": texts[:5], "best": "val_loss"} if held_out else {}
    fit(model.again(), texts, tmp_path / "a", Stop(), every=100, **options)
    assert saved(tmp_path / "a") == ["step_00000002"]
    fit(model.again(77), texts, tmp_path / "a", resume=True, every=100, **options)
    assert (numbers(model), losses(tmp_path / "a")) == whole


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
def test_arrays_go_on_in_their_order_and_others_are_refused(model, texts, tmp_path):
    def arrays_of(texts):
        x, y, weights = model.preprocessor(texts)
        return {name: np.asarray(part) for name, part in x.items()}, y, np.asarray(weights)

    def run(folder, *others, texts=texts, **more):
        x, y, weights = arrays_of(texts)
        options = {"y": np.asarray(y), "sample_weight": weights, "shuffle": True, **more}
        return fit(model, x, tmp_path / folder, *others, **options)

    model.again()
    run("whole")
    whole = numbers(model)
    model.again()
    with pytest.raises(Killed):
        run("a", KillAt(6))
    with pytest.raises(ValueError, match="over other data: sha256"):
        run("a", texts=texts[::-1], resume=True)
    _, y, weights = arrays_of(texts)
    for other in ({"y": np.asarray(y) + 1}, {"sample_weight": weights / 2}):
        with pytest.raises(ValueError, match="over other data: sha256"):
            run("a", resume=True, **other)
    model.again(77)
    with pytest.warns(UserWarning, match="can't seek"):
        run("a", resume=True)
    assert numbers(model) == whole


@pytest.mark.once
def test_a_run_that_had_ended_keeps_its_receipt(model, texts, tmp_path):
    fit(model, texts, tmp_path)
    before = receipt.read(tmp_path)
    fit(model.again(), texts, tmp_path, resume=True)
    assert before["logs"] and receipt.read(tmp_path)["logs"] == before["logs"]


@pytest.mark.once
def test_which_way_a_number_gets_better_is_told_by_its_name_or_asked_for(tmp_path):
    for name, sign in (("val_loss", 1), ("val_auc", -1), ("sparse_categorical_accuracy", -1)):
        assert Checkpoint(tmp_path, best=name).files.best == (name, sign)
    with pytest.raises(ValueError, match="larger or a smaller val_bleu is best is not known"):
        Checkpoint(tmp_path, best="val_bleu")
    assert Checkpoint(tmp_path, best="val_bleu", mode="max").files.best == ("val_bleu", -1)


@pytest.mark.once
def test_a_best_that_does_not_come_is_told_once(model, texts, tmp_path):
    with pytest.warns(UserWarning, match="reports .*loss.*, and no 'val_losses': no") as told:
        fit(model, texts, tmp_path, best="val_losses")
    assert len([warning for warning in told if "val_losses" in str(warning.message)]) == 1


@pytest.mark.once
def test_a_model_of_others_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(TypeError, match="this Sequential is none of them"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0, callbacks=[Checkpoint(tmp_path)])


@pytest.mark.once
def test_a_number_of_numpy_is_an_interval():
    assert Checkpoint("runs/a", every=np.int64(5))._steps == 5


@pytest.mark.once
@pytest.mark.parametrize("every", [0, "soon", "5", -1])
def test_an_interval_that_is_none_is_told(every):
    with pytest.raises(ValueError, match="a number of steps or a time such as"):
        Checkpoint("runs/a", every=every)
