"""What the tests of runs share: a fit that can be killed, and its numbers."""

import json

import keras

from keras_gemma.training import Checkpoint


class Killed(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends `fit` after so many steps, as a kill does: no other callback is told."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed


def fit(model, texts, folder, *others, epochs=2, **options):
    """Eight steps: two epochs of four batches, the last of which is filled up."""
    names = ("every", "keep", "best", "resume", "log_every", "report")
    given = {name: options.pop(name) for name in names if name in options}
    checkpoint = Checkpoint(folder, **{"every": 1, "log_every": 1, **given})
    keywords = {"epochs": epochs, "batch_size": 4, "verbose": 0, **options}
    return model.fit(texts, callbacks=[checkpoint, *others], **keywords)


def numbers(model):
    """All numbers that a run changes, by name."""
    variables = {"weights": model.variables, "optimizer": model.optimizer.variables}
    return {
        f"{part}/{v.path}": keras.ops.convert_to_numpy(v).tobytes()
        for part, found in variables.items()
        for v in found
    }


def losses(folder):
    """`(step, loss)` of each line of the log."""
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def saved(folder):
    return [path.stem for path in sorted((folder / "checkpoints").glob("*.safetensors"))]
