"""Small models in folders of Transformers, for the tests of that format.

The test files of this folder import its fixtures by name.
"""

import json

import pytest
from cases import GEMMA3, make
from vocabularies import CODE, RUNS, TURNS, train

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma import Gemma3CausalLM, GemmaCausalLM
from keras_gemma.arrays import fetch
from keras_gemma.conversion.checkpoint import Source

# Of each shape one, and what Gemma 2 27B and Gemma 3 have of their own.
NAMES = [
    "multi-query",
    "grouped",
    "multi-head, wider than the model",
    "Gemma 2",
    "Gemma 2 27B's scale",
    "Gemma 3",
    "Gemma 3, long",
    "Gemma 3 27B's scale",
]


@pytest.fixture(scope="module")
def proto():
    # Fewer than 96 pieces beside the 256 bytes are not to be had: the table grows instead.
    return train([*TURNS, "<mask>", *CODE, *RUNS])


def source(model, proto=None, dtype="float32"):
    weights = {variable.path: variable for variable in model.backbone.variables}
    backbone = model.backbone
    return Source(
        type(backbone).__name__,
        backbone.get_config(),
        dtype,
        lambda path: fetch(weights[path]),
        proto,
        64,
    )


def task(name):
    return Gemma3CausalLM if name in GEMMA3 else GemmaCausalLM


def configured(folder):
    return json.loads((folder / "config.json").read_text())


def reconfigure(folder, **changes):
    config = {**configured(folder), **changes}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of each case, written once; tests that change one copy it."""
    folders = {}

    def folder(name="grouped"):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("written") / "model"
            huggingface.save(folders[name], source(make(name)))
        return folders[name]

    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of a small model's folder, to be spoilt."""
    for path in written().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="torch is not installed")
    module = pytest.importorskip("transformers", reason="transformers is not installed")
    return module


@pytest.fixture
def quiet(transformers, caplog):
    """Fails where Transformers warns."""
    logger = transformers.utils.logging.get_logger("transformers")
    logger.propagate = True
    yield
    logger.propagate = False
    warned = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    assert not warned
