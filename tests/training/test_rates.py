"""The learning rate of a run follows from where it stands in all its epochs."""

import keras
import pytest

from keras_gemma.optimizers import AdamW

pytestmark = pytest.mark.once
ALL = [1.0, 0.75, 0.5, 0.25]


class Rates(keras.callbacks.Callback):
    """Rates of each step of two; stops `fit` after so many."""

    def __init__(self, stop=None):
        super().__init__()
        self.found, self.stop = [], stop

    def on_train_batch_begin(self, batch, logs=None):
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.found.append(round(float(rate) * 1e3, 3))

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = len(self.found) == self.stop


@pytest.fixture
def rates(model, texts):
    """`rates(epochs)`: those of a `fit` of one step an epoch, on a model compiled once."""
    model.compile(optimizer=AdamW(1e-3, schedule="linear"))

    def fit(epochs, stop=None, **options):
        told = Rates(stop)
        model.fit(texts[:4], None, 4, epochs, verbose=0, callbacks=[told], **options)
        return told.found

    return fit


def test_the_epochs_before_the_initial_one_count(rates):
    assert rates(4, initial_epoch=2) == ALL[2:]
    assert rates(4) == ALL


def test_a_run_that_goes_on_for_more_epochs_falls_to_their_end(rates):
    assert rates(2) == [1.0, 0.5]
    assert rates(4, initial_epoch=2) == ALL[2:]


def test_after_a_stopped_run_another_begins_anew(rates):
    assert rates(4, stop=2) == ALL[:2]
    assert rates(4) == ALL


def test_keras_s_own_backup_keeps_to_the_schedule(rates, tmp_path, model, texts):
    class Stopped(Exception):
        pass

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Stopped

    told = Rates()
    with pytest.raises(Stopped):
        backup = keras.callbacks.BackupAndRestore(tmp_path)
        model.fit(texts[:4], None, 4, 4, verbose=0, callbacks=[told, backup, Stop()])
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    model.fit(texts[:4], None, 4, 4, verbose=0, callbacks=[told, backup])
    assert told.found == ALL
