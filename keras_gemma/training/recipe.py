"""Run a training recipe: a JSON file that says all a run depends on."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_gemma import optimizers
from keras_gemma.data import corpus
from keras_gemma.models import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.models.text_batches import TextBatches
from keras_gemma.training import fine_tuning
from keras_gemma.training.checkpoint import Checkpoint
from keras_gemma.training.corpus_rows import CorpusRows
from keras_gemma.training.recipe_file import checked, keep_recipe, located
from keras_gemma.training.run_lock import run_lock


def run(
    recipe: Mapping[str, Any],
    out: Path,
    resume: bool = False,
    on_progress: Callable[[dict], None] = print,
    checkpoint_every: int | str = "2 minutes",
) -> dict[str, Any]:
    """Train as `recipe` says; what was trained lies in `out` then. Returns what was measured.

    A recipe with a `corpus` trains on what the bundled models were trained on, one with `data` on a
    file of texts, pairs or conversations. `out/preset` is the model, or `out/adapter.lora.h5` what
    LoRA trained; `Checkpoint` says what else lies there.

    The order of the rows and the first weights follow from the recipe's seed: a run that is
    stopped and resumed ends with the numbers of one that was not.

    Raises:
        ValueError: `out` holds a run already and `resume` is false, or one of another recipe; another
            run works in it; a field of the recipe is not what it may be.
    """
    if "corpus" not in recipe:
        checked(recipe)
    with run_lock(out):
        return _run(located(recipe), out, resume, on_progress, checkpoint_every)


def _run(recipe, out, resume, on_progress, checkpoint_every):
    keep_recipe(recipe, out, resume)
    keras.utils.set_random_seed(recipe["seed"])
    model, data, fit_options = (_from_corpus if "corpus" in recipe else fine_tuning.prepare)(recipe)
    checkpoint = Checkpoint(out, checkpoint_every, resume=resume, report=on_progress)
    checkpoint.lock = contextlib.nullcontext  # it is held already
    model.fit(data, verbose=0, callbacks=[checkpoint], **fit_options)
    measured = {
        "tokens_seen": checkpoint.progress.tokens_seen,
        "date": time.strftime("%Y-%m-%d"),
    }
    if "data" in recipe:
        measured["rows_skipped"] = data.skipped
    if recipe.get("lora"):
        model.backbone.save_lora_weights(out / "adapter.lora.h5")
    else:
        _in_dtype(model, recipe.get("saved_dtype")).save_to_preset(out / "preset")
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    return measured


def _from_corpus(recipe):
    if "start" in recipe:
        model = GemmaCausalLM.from_preset(recipe["start"])
    else:
        tokenizer = corpus.tokenizer(recipe)
        preprocessor = GemmaCausalLMPreprocessor(tokenizer, recipe["row_length"] - 1)
        model = GemmaCausalLM(GemmaBackbone(**recipe["model"]), preprocessor)
    rows = CorpusRows(corpus.rows(recipe, model.preprocessor.tokenizer))
    steps = recipe["tokens"] // (recipe["batch_size"] * rows.length)
    data = TextBatches(rows, recipe["batch_size"], shuffle=True, seed=recipe["seed"], steps=steps)
    model.compile(optimizer=_cosine(recipe["optimizer"], steps))
    return model, data, {}


def _in_dtype(model, dtype):
    """The model with weights of another dtype, to be saved."""
    if dtype is None:
        return model
    config = {**model.backbone.get_config(), "dtype": dtype}
    backbone = type(model.backbone).from_config(config)
    for source, target in zip(model.backbone.variables, backbone.variables):
        target.assign(source)
    return type(model)(backbone, model.preprocessor)


def _cosine(settings, steps):
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
    return optimizers.AdamW(rate, **settings)
