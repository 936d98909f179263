"""What a model says while it learns."""

import json
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_gemma.models.fit_run import run_of
from keras_gemma.training.snapshot import sync


class Samples(keras.callbacks.Callback):
    """Generates from a few prompts in the middle of `fit`, and prints what comes.

    Training goes on as if nothing had happened: the same numbers come out.

    Args:
        prompts: texts, as for `generate`; or one.
        every: steps between two times; `"epoch"` is at the end of each epoch.
        max_new_tokens: of each text.
        show: is called with each prompt and its text; prints if left out.
        folder: of a run; the texts are also appended to its `samples.jsonl`.
    """

    def __init__(
        self,
        prompts: str | Sequence[str],
        every: int | str = "epoch",
        max_new_tokens: int = 64,
        *,
        show: Callable[[str, str], Any] | None = None,
        folder: str | Path | None = None,
    ):
        super().__init__()
        if every != "epoch" and not (isinstance(every, numbers.Integral) and every > 0):
            raise ValueError(f"every must be a number of steps or 'epoch', not {every!r}.")
        self.prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        self.every, self.max_new_tokens = every, max_new_tokens
        self.show, self.folder = show or _print, Path(folder) if folder else None

    def on_train_begin(self, logs=None):
        run_of(self.model, self)

    def on_train_batch_end(self, batch, logs=None):
        run = self.model.fit_run
        if self.every != "epoch" and run.step % self.every == 0 and not run.is_passing:
            self._sample()

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self._sample()

    def _sample(self):
        sync(self.model)
        # Without a seed, one would be drawn from the generator that data may be shuffled by.
        texts = self.model.generate(self.prompts, max_new_tokens=self.max_new_tokens, seed=0)
        self.model._generation_engine.forget()  # its plan would be old after one step
        for prompt, text in zip(self.prompts, texts):
            self.show(prompt, text)
        if self.folder:
            record = {"step": self.model.fit_run.step, "texts": texts}
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _print(prompt, text):
    print(text)
