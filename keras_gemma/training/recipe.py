"""Run a training recipe: a JSON file that says all a run depends on."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gemma.data import corpus
from keras_gemma.models import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.optimizers import AdamW
from keras_gemma.training import checkpoints
from keras_gemma.training.callbacks import Checkpoints, Progress


def run(
    recipe: Mapping[str, Any],
    out: Path,
    resume: bool = False,
    on_progress: Callable[[dict], None] = print,
    checkpoint_minutes: float = 2.0,
) -> dict[str, Any]:
    """Train as `recipe` says and save a preset in `out/preset`; returns what was measured.

    While it runs, `out/checkpoint.npz` is written every `checkpoint_minutes`.

    The order of the rows and the first weights follow from the recipe's seed: a run that is
    stopped and resumed ends with the numbers of one that was not.

    Raises:
        ValueError: `out` holds a run already and `resume` is false.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.npz"
    if checkpoint.exists() and not resume:
        raise ValueError(f"{out} holds a run already. Resume it, or choose another folder.")
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    keras.utils.set_random_seed(recipe["seed"])
    model = _model(recipe)
    rows = RowBatches(
        corpus.rows(recipe, model.preprocessor.tokenizer), recipe["batch_size"], recipe["seed"]
    )
    steps = recipe["tokens"] // rows.tokens
    model.compile(optimizer=_optimizer(recipe["optimizer"], steps))
    start = checkpoints.restore(model, checkpoint) if checkpoint.exists() else 0
    if start < steps:
        rows.start, rows.stop = start, steps
        watchers = [
            Checkpoints(checkpoint, start, checkpoint_minutes),
            Progress(on_progress, start, steps, rows.tokens),
        ]
        model.fit(rows, shuffle=False, verbose=0, callbacks=watchers)
    measured = {
        "tokens_seen": steps * rows.tokens,
        "date": time.strftime("%Y-%m-%d"),
    }
    _in_dtype(model, recipe.get("saved_dtype", "float32")).save_to_preset(out / "preset")
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    return measured


def _model(recipe):
    if "start" in recipe:
        return GemmaCausalLM.from_preset(recipe["start"])
    tokenizer = corpus.tokenizer(recipe)
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, recipe["row_length"] - 1)
    return GemmaCausalLM(GemmaBackbone(**recipe["model"]), preprocessor)


def _in_dtype(model, dtype):
    """The model with weights of another dtype, to be saved."""
    config = {**model.backbone.get_config(), "dtype": dtype}
    backbone = type(model.backbone).from_config(config)
    for source, target in zip(model.backbone.variables, backbone.variables):
        target.assign(source)
    return type(model)(backbone, model.preprocessor)


def _optimizer(settings, steps):
    """AdamW under a linear warm-up and a cosine that ends with the run."""
    settings = dict(settings)
    peak, warmup = settings.pop("learning_rate"), settings.pop("warmup_steps")
    if warmup >= steps:
        raise ValueError(
            f"warmup_steps={warmup} takes the whole run of {steps} steps. Lower it, or raise tokens."
        )
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=peak,
        warmup_steps=warmup,
        decay_steps=steps - warmup,
        alpha=settings.pop("final_share", 0.0),
    )
    return AdamW(rate, **settings)


class RowBatches(keras.utils.PyDataset):
    """Batches of packed rows, in an order that a seed fixes; epoch after epoch where rows end."""

    def __init__(self, rows, batch_size: int, seed: int):
        super().__init__()
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.start = self.stop = 0
        self._epoch, self._order = None, None

    @property
    def tokens(self) -> int:
        """Places in a batch."""
        return self.batch_size * (self.rows.token_ids.shape[1] - 1)

    @property
    def num_batches(self):
        return self.stop - self.start

    def __getitem__(self, index):
        first = (self.start + index) * self.batch_size
        places = np.array([self._row(place) for place in range(first, first + self.batch_size)])
        token_ids, segments, weights = (np.asarray(part[places]) for part in self.rows)
        inputs = {"token_ids": token_ids[:, :-1], "padding_mask": segments[:, :-1]}
        # A label counts where it goes on with the document of the token before it.
        same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        return inputs, token_ids[:, 1:], weights[:, 1:] * same

    def _row(self, place):
        epoch, place = divmod(place, len(self.rows.token_ids))
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            self._epoch, self._order = epoch, random.permutation(len(self.rows.token_ids))
        return self._order[place]
