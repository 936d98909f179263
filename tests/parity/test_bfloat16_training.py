"""Training in bfloat16 follows training in float32, from the same first weights on the same rows."""

import keras
import pytest

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.data import corpus, stories
from keras_gemma.presets import registry
from keras_gemma.training import recipe as recipes

# Of the tiny recipe, what needs no package of the Bible or of WordNet.
CORPUS = [
    {"source": "stories", "share": 0.75, "seed": 1},
    {"source": "skills", "share": 0.25},
]
EIGHTH = {"tokenizer": {"vocabulary_size": 2048, "characters": 400_000}, "tokens": 2_000_000}
QUICK = {
    "tokenizer": {"vocabulary_size": 512, "characters": 60_000},
    "model": {
        "vocabulary_size": 512,
        "num_layers": 2,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dim": 32,
        "intermediate_dim": 128,
        "head_dim": 16,
    },
    "row_length": 65,
    "batch_size": 4,
    "tokens": 100 * 256,
    "optimizer": {"learning_rate": 0.01, "warmup_steps": 5, "global_clipnorm": 1.0},
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of its own, and afterwards the policy of before."""
    monkeypatch.setenv("KERAS_GEMMA_HOME", str(tmp_path / "home"))
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def first_weights(recipe, folder):
    """A preset to start from, of numbers that bfloat16 holds."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(recipe["seed"])
    backbone = GemmaBackbone(**recipe["model"])
    for variable in backbone.variables:
        variable.assign(keras.ops.cast(variable, "bfloat16"))
    preprocessor = GemmaCausalLMPreprocessor(corpus.tokenizer(recipe), recipe["row_length"] - 1)
    GemmaCausalLM(backbone, preprocessor).save_to_preset(folder)
    return str(folder)


def held_out_loss(preset, dtype):
    """Nats a token of new stories."""
    model = GemmaCausalLM.from_preset(preset, dtype=dtype)
    texts = [*stories.stories(64, seed=99)]
    return model.evaluate(texts, batch_size=8, verbose=0, return_dict=True)["loss"]


def final_loss(recipe, dtype, folder):
    """Of a run whose weights, activations and gradients are of a dtype."""
    keras.config.set_dtype_policy(dtype)
    recipes.run({**recipe, "saved_dtype": dtype}, folder, on_progress=lambda report: None)
    return held_out_loss(folder / "preset", dtype)


@pytest.mark.filterwarnings("ignore:64 of 64 documents were longer than a row")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(QUICK, id="a hundred steps of a smaller one"),
        pytest.param(EIGHTH, id="an eighth of it", marks=pytest.mark.slow),
    ],
)
def test_the_final_loss_of_the_tiny_recipe_is_within_a_hundredth(tmp_path, changes):
    recipe = {**registry.recipe("gemma_tiny_en"), "corpus": CORPUS, **changes}
    recipe["start"] = first_weights(recipe, tmp_path / "start")
    wanted = final_loss(recipe, "float32", tmp_path / "float32")
    got = final_loss(recipe, "bfloat16", tmp_path / "bfloat16")
    assert wanted < 0.8 * held_out_loss(tmp_path / "start", "float32")
    assert got == pytest.approx(wanted, rel=0.01)
