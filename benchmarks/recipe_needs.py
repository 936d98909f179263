"""Write into the recipes for people's own data what memory `keras_gemma.fits_in` estimates for them.

    KERAS_BACKEND=torch python benchmarks/recipe_needs.py

Models are built on PyTorch, of shapes without numbers: those of 7 billion parameters take no memory, either.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "presets" / "recipes"
sys.path.insert(0, str(ROOT))  # a checkout needs no installation

import keras

import keras_gemma
from keras_gemma.presets import registry
from keras_gemma.presets.sizes import BYTES_PER_NUMBER
from keras_gemma.quantization import form_of
from keras_gemma.training import fine_tuning


def tuning_recipes() -> dict[str, dict]:
    """The recipes that train on people's own data."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in RECIPES.glob("*.json")}
    return {name: recipe for name, recipe in sorted(found.items()) if "data" in recipe}


def estimated(recipe: dict) -> int:
    """Bytes of a step of that recipe, or of its weights as they are before they are quantized, if those are more."""
    settings, card = fine_tuning.checked(recipe), registry.card(recipe["start"])
    dtype = settings["dtype"] or card["dtype"]
    with keras.device("meta"):  # PyTorch's, which holds shapes only
        backbone = getattr(keras_gemma, card["backbone"])(**card["architecture"], dtype=dtype)
        model = _model(backbone)
        if settings["quantize"]:
            form = form_of(settings["quantize"], None)
            model.prepare_quantized(lambda path: form)
        fine_tuning.adapt(model, settings)
        rows, length = settings["batch_size"], settings["row_length"]
        step = keras_gemma.fits_in(model, 1, batch_size=rows, sequence_length=length).total
    return max(step, card["parameters"] * BYTES_PER_NUMBER[dtype])


def _model(backbone):
    if isinstance(backbone, keras_gemma.Gemma3Backbone):
        return keras_gemma.Gemma3CausalLM(None, backbone)
    return keras_gemma.GemmaCausalLM(backbone)


def main():
    for name, recipe in tuning_recipes().items():
        recipe["needs"]["estimated_gb"] = round(estimated(recipe) / 1e9, 2)
        (RECIPES / f"{name}.json").write_text(json.dumps(recipe, indent=2) + "\n", "utf-8")
        print(f"{name}: {recipe['needs']['estimated_gb']} GB of {recipe['needs']['memory']}")


if __name__ == "__main__":
    main()
