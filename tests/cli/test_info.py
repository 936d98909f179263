import json

import keras
import pytest

from keras_gemma.generation.compiled import traits
from keras_gemma.presets import bundle

pytestmark = pytest.mark.once


def test_a_preset_is_told_without_its_weights(run):
    text = run("info", "gemma_2b_en").stdout
    for part in ("2,506,172,416", "(5.0 GB)", "18,432,000", "Gemma Terms of Use", "hf://google"):
        assert part in text


def test_a_folder_is_told_too(run, tmp_path):
    config = {
        "vocabulary_size": 32,
        "num_layers": 2,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dim": 8,
        "intermediate_dim": 24,
        "head_dim": 4,
    }
    bundle.write(tmp_path / "p", {"config.json": bundle.serialized("GemmaBackbone", config)})
    facts = json.loads(run("info", tmp_path / "p", "--json").stdout)
    assert facts["weights_bytes"]["bfloat16"] == 2 * facts["parameters"]
    assert facts["kv_cache_bytes_per_1000_tokens"]["float32"] == 2 * 2 * 4 * 1000 * 4


def test_an_installation_is_told_with_its_backend_and_devices(run):
    facts = json.loads(run("info", "--json").stdout)
    assert facts["backend"] == keras.config.backend()
    assert facts["keras"] == keras.__version__
    assert facts["devices"]
    assert "keras gemma" in run("info").stdout


@pytest.mark.parametrize("declined", [False, True])
def test_an_installation_tells_the_kernels_that_it_uses(run, declined, monkeypatch):
    package = pytest.importorskip("keras_gemma_kernels")
    monkeypatch.setenv("KERAS_GEMMA_KERNELS", "0" if declined else "1")
    told = json.loads(run("info", "--json").stdout)["kernels"]
    if declined:
        reason = "declined by KERAS_GEMMA_KERNELS=0"
    elif not traits().takes_kernels:
        reason = f"not for {keras.config.backend()} on this device"
    else:
        reason = package.available().isa
    assert told["which"] == f"keras-gemma-kernels {package.__version__}, {reason}"
    assert told["used"] == (not declined and traits().takes_kernels)
    assert told["which"] in run("info").stdout


def test_an_installation_without_kernels_says_so(run, monkeypatch):
    monkeypatch.setattr("keras_gemma.generation.kernels.kg", None)
    told = json.loads(run("info", "--json").stdout)["kernels"]
    assert told == {"used": False, "which": "keras-gemma-kernels is not installed"}


def test_unknown_and_broken_presets_have_their_exit_codes(run, tmp_path):
    assert run("info", "gemma_2b").exit_code == 1
    (tmp_path / "config.json").write_text("{")
    result = run("info", tmp_path)
    assert result.exit_code == 4
    assert "config.json" in result.stderr
