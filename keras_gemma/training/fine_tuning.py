"""Recipes that train a preset further, on people's own data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_gemma import device_memory, models, optimizers
from keras_gemma.conversion.formats import open_checkpoint
from keras_gemma.data import read
from keras_gemma.models import GemmaCausalLM
from keras_gemma.models.step_memory import StepMemory
from keras_gemma.out_of_memory import OutOfMemoryError
from keras_gemma.presets import registry
from keras_gemma.training.recipe_file import checked


def prepare(recipe: Mapping[str, Any]) -> tuple[GemmaCausalLM, Any, dict[str, Any]]:
    """The model of a recipe, compiled; its data, and the other arguments of `fit`.

    Raises:
        OutOfMemoryError: there is no room for the weights, or by estimate for a step.
        ValueError: the recipe has a field that is unknown or wrong, or lacks one; a row of the data is wrong.
    """
    settings = checked(recipe)
    data = read(Path(settings["data"]), skip_bad=settings["skip_bad"])
    model = _loaded(settings["start"], settings["dtype"])
    model.preprocessor.sequence_length = settings["row_length"]
    model.preprocessor.pack = settings["pack"]
    if settings["too_long"]:
        model.preprocessor.too_long = settings["too_long"]
    if settings["quantize"]:
        model.quantize(settings["quantize"])
    adapt(model, settings)
    if settings["check_memory"]:
        _see_that_it_fits(model, settings)
    options = {"batch_size": settings["batch_size"], "epochs": settings["epochs"]}
    if settings["tokens"]:
        places = settings["batch_size"] * settings["row_length"]
        options |= {"epochs": 1, "steps_per_epoch": settings["tokens"] // places}
    if settings["validation"]:
        options["validation_split"] = settings["validation"]
    return model, data, options


def adapt(model: GemmaCausalLM, settings: Mapping[str, Any]) -> None:
    """Put adapters beside the weights and compile, as a recipe with all fields says."""
    if settings["lora"]:
        lora = dict(settings["lora"])
        targets = lora.pop("targets", None)
        model.backbone.enable_lora(target_layer_names=targets, **lora)
    remat = {"remat": settings["remat"]} if settings["remat"] else {}
    model.compile(optimizer=_optimizer(settings), **remat)


def _see_that_it_fits(model, settings):
    step = StepMemory(model, settings["batch_size"], settings["row_length"])
    if device_memory.is_hosts() and step.is_too_large:
        raise OutOfMemoryError(
            f"There is no room to train. {step} check_memory=false in the recipe tries it nonetheless."
        )


def _loaded(preset, dtype):
    """The model of a preset, of its class and, if no dtype is given, as its weights are stored."""
    stored = open_checkpoint(registry.folder(preset))
    if not stored.quantized:  # else `from_preset` leaves it so, unless a dtype is given
        dtype = dtype or stored.config.get("dtype")
    kind = getattr(models, stored.backbone.replace("Backbone", "CausalLM"))
    return kind.from_preset(preset, dtype=dtype)


def _optimizer(settings):
    options = dict(settings["optimizer"])
    name = options.pop("name", "AdamW")
    if name not in optimizers.__all__ or not name[0].isupper():
        known = ", ".join(n for n in optimizers.__all__ if n[0].isupper())
        raise ValueError(f"There is no optimizer {name!r}. Those there are: {known}.")
    if settings["accumulate"] > 1:
        options["gradient_accumulation_steps"] = settings["accumulate"]
    return getattr(optimizers, name)(options.pop("learning_rate"), **options)
