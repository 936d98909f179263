"""What a user may import, and what an import may cost."""

import importlib
import subprocess
import sys

import pytest

import keras_gemma

pytestmark = pytest.mark.once

# As `keras_gemma.models.X`, KerasHub's spelling.
MODELS = (
    "Gemma3Backbone",
    "Gemma3CausalLM",
    "Gemma3CausalLMPreprocessor",
    "Gemma3TextClassifier",
    "Gemma3TextClassifierPreprocessor",
    "Gemma3TextEmbedder",
    "Gemma3TextEmbedderPreprocessor",
    "Gemma3Tokenizer",
    "GemmaBackbone",
    "GemmaCausalLM",
    "GemmaCausalLMPreprocessor",
    "GemmaTextClassifier",
    "GemmaTextClassifierPreprocessor",
    "GemmaTextEmbedder",
    "GemmaTextEmbedderPreprocessor",
    "GemmaTokenizer",
)
SAMPLERS = ("GreedySampler", "RandomSampler", "Sampler", "TopKSampler", "TopPSampler")


@pytest.mark.parametrize("name", keras_gemma.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(keras_gemma, name) is not None
    assert name in dir(keras_gemma)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_at_the_top_and_in_models(name):
    assert getattr(keras_gemma.models, name) is getattr(keras_gemma, name)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_have_the_names_of_keras_hub(name):
    assert hasattr(keras_gemma.samplers, name)


@pytest.mark.parametrize(
    "module",
    "models samplers optimizers constraints data layers text generation presets training".split(),
)
def test_all_lists_are_true(module):
    module = importlib.import_module(f"keras_gemma.{module}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="GemaBackbone"):
        _ = keras_gemma.GemaBackbone


def modules_after(code):
    """What is imported once `code` has run in a fresh process."""
    code = f"{code}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy():
    names = modules_after("import keras_gemma")
    assert not names & {"keras", "tensorflow", "torch", "jax", "numpy", "keras_gemma.models"}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_tensorflow_is_not_imported_unless_it_is_the_backend(backend):
    code = f"import os; os.environ['KERAS_BACKEND'] = '{backend}'; import keras_gemma; "
    code += "keras_gemma.GemmaCausalLM; keras_gemma.samplers.GreedySampler; keras_gemma.Chat"
    assert "tensorflow" not in modules_after(code)


def test_help_imports_neither_keras_nor_a_backend():
    names = modules_after(
        "from click.testing import CliRunner; from keras_gemma.cli.main import verbs; "
        "assert CliRunner().invoke(verbs, ['generate', '--help']).exit_code == 0"
    )
    assert not names & {"keras", "tensorflow", "torch", "jax"}
