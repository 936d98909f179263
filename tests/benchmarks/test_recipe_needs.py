"""What recipes say they need is what `fits_in` says of the model they build."""

import json
import runpy
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only PyTorch has tensors without numbers"
)
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "recipe_needs.py"
recipe_needs = runpy.run_path(str(BENCHMARK))
RECIPES = recipe_needs["tuning_recipes"]()


@pytest.mark.parametrize("name", RECIPES)
def test_needs_are_what_fits_in_estimates_and_leave_room(name):
    needs = RECIPES[name]["needs"]
    told = recipe_needs["estimated"](RECIPES[name]) / 1e9
    assert needs["estimated_gb"] == round(told, 2)
    assert told < 0.9 * float(needs["memory"].removesuffix("GB"))


def test_a_model_without_numbers_is_told_to_need_what_a_real_one_does():
    from keras_gemma import fits_in
    from keras_gemma.presets import registry
    from keras_gemma.training import fine_tuning

    for more in ({}, {"lora": {"rank": 4}}, {"lora": {"rank": 4}, "quantize": "int8"}):
        recipe = {**registry.recipe("sft_full_tiny"), **more}
        model, _, options = fine_tuning.prepare(recipe)
        real = fits_in(model, "1GB", batch_size=options["batch_size"])
        assert recipe_needs["estimated"](recipe) == real.total, json.dumps(more)
