"""Recipes that train a preset further, on people's own data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_gemma import optimizers
from keras_gemma.models import GemmaCausalLM

# What a recipe with `data` may hold; what is not in it has the value here, `...` must be there.
FIELDS: dict[str, Any] = {
    "name": None,
    "description": None,
    "needs": None,  # for people: memory and time
    "yields": None,
    "seed": ...,
    "start": ...,  # a preset
    "dtype": None,  # of its weights; as they are stored if left out
    "data": ...,  # a file that keras_gemma.data.read reads
    "validation": 0.0,  # share of it that is held out
    "row_length": ...,  # tokens
    "pack": False,
    "batch_size": ...,
    "epochs": 1,
    "tokens": None,  # places to train on, instead of epochs
    "quantize": None,  # "int8": QLoRA
    "lora": None,  # {"rank": 8, "alpha": 16, "targets": ["query", "value"]}
    "optimizer": ...,  # {"name": "AdamW", "learning_rate": 2e-4, "schedule": "cosine", …}
    "accumulate": 1,  # batches in an update
    "remat": None,
    "saved_dtype": None,
}


def prepare(recipe: Mapping[str, Any]) -> tuple[GemmaCausalLM, Any, dict[str, Any]]:
    """The model of a recipe, compiled; its data, and the other arguments of `fit`.

    Raises:
        ValueError: the recipe has a field that is unknown, or lacks one.
    """
    settings = checked(recipe)
    dtype = {"dtype": settings["dtype"]} if settings["dtype"] else {}
    model = GemmaCausalLM.from_preset(settings["start"], **dtype)
    model.preprocessor.sequence_length = settings["row_length"]
    model.preprocessor.pack = settings["pack"]
    if settings["quantize"]:
        model.quantize(settings["quantize"])
    adapt(model, settings)
    options = {"batch_size": settings["batch_size"], "epochs": settings["epochs"]}
    if settings["tokens"]:
        places = settings["batch_size"] * settings["row_length"]
        options |= {"epochs": 1, "steps_per_epoch": settings["tokens"] // places}
    if settings["validation"]:
        options["validation_split"] = settings["validation"]
    return model, Path(settings["data"]), options


def adapt(model: GemmaCausalLM, settings: Mapping[str, Any]) -> None:
    """Put adapters beside the weights and compile, as a recipe with all fields says."""
    if settings["lora"]:
        lora = dict(settings["lora"])
        targets = lora.pop("targets", None)
        model.backbone.enable_lora(target_layer_names=targets, **lora)
    remat = {"remat": settings["remat"]} if settings["remat"] else {}
    model.compile(optimizer=_optimizer(settings), **remat)


def checked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with all fields.

    >>> checked({"start": "gemma_2b_en"})
    Traceback (most recent call last):
    ValueError: The recipe lacks seed, data, row_length, batch_size, optimizer.
    """
    if unknown := sorted(set(recipe) - set(FIELDS)):
        raise ValueError(f"The recipe has {', '.join(unknown)}, and may have {', '.join(FIELDS)}.")
    if lacking := [n for n, value in FIELDS.items() if value is ... and n not in recipe]:
        raise ValueError(f"The recipe lacks {', '.join(lacking)}.")
    return {**FIELDS, **recipe}


def _optimizer(settings):
    options = dict(settings["optimizer"])
    name = options.pop("name", "AdamW")
    if name not in optimizers.__all__ or not name[0].isupper():
        known = ", ".join(n for n in optimizers.__all__ if n[0].isupper())
        raise ValueError(f"There is no optimizer {name!r}. Those there are: {known}.")
    if settings["accumulate"] > 1:
        options["gradient_accumulation_steps"] = settings["accumulate"]
    return getattr(optimizers, name)(options.pop("learning_rate"), **options)
