"""`keras-gemma info --record`: what is measured of a preset, and that downloads then look for it."""

import json

import keras
import numpy as np
import pytest
from hub_examples import OWNER, hub_fixture, names
from hub_server import sha256

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.models.golden_logits import PROMPTS
from keras_gemma.presets import registry

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def small(tmp_path_factory, tokenizer):
    """A model of its own, and the folder it was saved to."""
    backbone = GemmaBackbone(tokenizer.vocabulary_size(), 1, 2, 1, 8, 16, 4)
    model = GemmaCausalLM(backbone, GemmaCausalLMPreprocessor(tokenizer))
    folder = tmp_path_factory.mktemp("small") / "preset"
    model.save_to_preset(folder)
    return model, folder


@pytest.fixture
def card(small, hub, tmp_path, monkeypatch):
    """The path of the card of that model, which lies on the hub as `small_en`."""
    model, folder = small
    hub.repositories[OWNER] = {name: (folder / name).read_bytes() for name in names(folder)}
    card = json.loads((registry.root() / "gemma_2b_en.json").read_text())
    config = json.loads((folder / "config.json").read_text())["config"]
    card["architecture"] = {name: config[name] for name in card["architecture"]}
    card |= {
        "parameters": model.backbone.count_params(),
        "sources": {"huggingface": f"hf://{OWNER}"},
    }
    card["licence"]["accept_at"] = {"huggingface": "https://example.org"}
    (tmp_path / "cards").mkdir()
    path = tmp_path / "cards" / "small_en.json"
    path.write_text(json.dumps(card))
    monkeypatch.setattr(registry, "root", lambda: path.parent)
    return path


def test_a_published_preset_is_measured_into_its_card(run, small, card, hub):
    before = json.loads(card.read_text())
    result = run("info", "small_en", "--record")
    assert result.exit_code == 0, result.output
    written = json.loads(card.read_text())
    sums, golden = written.pop("checksums"), written.pop("golden_logits")
    assert written == before
    files = hub.repositories[OWNER]
    assert sums == {
        "huggingface": {n: {"sha256": sha256(data), "size": len(data)} for n, data in files.items()}
    }
    assert golden["dtype"] == "float32" and set(golden["versions"]) > {"keras", "keras_gemma"}
    assert [prompt["prompt"] for prompt in golden["prompts"]] == list(PROMPTS)
    model, tokenizer = small[0], small[0].preprocessor.tokenizer
    longest = max(len(prompt["ids"]) for prompt in golden["prompts"])
    ids = [prompt["ids"] + [0] * (longest - len(prompt["ids"])) for prompt in golden["prompts"]]
    rows = model({"token_ids": np.array(ids), "padding_mask": np.array(ids) != 0})
    for row, prompt in zip(keras.ops.convert_to_numpy(rows), golden["prompts"]):
        assert prompt["ids"] == [tokenizer.start_token_id, *tokenizer.encode(prompt["prompt"])]
        logits = row[len(prompt["ids"]) - 1]
        assert prompt["best"] == np.argsort(-logits)[:5].tolist()
        np.testing.assert_allclose(prompt["logits"], logits[prompt["best"]], rtol=1e-4)
    assert json.loads(run("info", "small_en", "--json").stdout)["golden_logits"] == golden
    assert "golden logits" in run("info", "small_en").stdout
    assert [path.name for path in card.parent.iterdir()] == [card.name]


def test_what_was_recorded_is_what_downloads_look_for(run, small, card, hub, tmp_path, monkeypatch):
    assert run("info", "small_en", "--record").exit_code == 0
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv("KERAS_GEMMA_HOME", str(tmp_path / "another_home"))
    assert run("download", "small_en").exit_code == 0
    config = hub.repositories[OWNER]["config.json"]
    hub.repositories[OWNER]["config.json"] = config.replace(b'"dropout": 0', b'"dropout": 1')
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "third"))
    monkeypatch.setenv("KERAS_GEMMA_HOME", str(tmp_path / "third_home"))
    result = run("download", "small_en")
    assert result.exit_code == 4
    assert "config.json has the sha256" in result.stderr


def test_a_card_is_written_to_another_file_on_request(run, card, tmp_path):
    before, out = card.read_bytes(), tmp_path / "measured.json"
    result = run("info", "small_en", "--record", "--out", out, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert card.read_bytes() == before
    assert json.loads(out.read_text())["golden_logits"]["dtype"] == "bfloat16"
    lost = run("info", "small_en", "--record", "--out", tmp_path / "no" / "folder.json")
    assert lost.exit_code == 1 and "can't be written" in lost.stderr


def test_a_folder_is_measured_to_stdout_or_to_a_file(run, small, tmp_path):
    _, folder = small
    result = run("info", folder, "--record")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["checksums"]["config.json"]["sha256"] == sha256(
        (folder / "config.json").read_bytes()
    )
    assert set(found["checksums"]) == set(names(folder))
    assert run("info", folder, "--record", "--out", tmp_path / "a.json").exit_code == 0
    again = json.loads((tmp_path / "a.json").read_text())
    assert again["golden_logits"]["prompts"] == found["golden_logits"]["prompts"]


def test_a_model_without_a_tokenizer_is_asked_about_ids(run, tmp_path):
    GemmaBackbone(32, 1, 2, 1, 8, 16, 4).save_to_preset(tmp_path / "p")
    found = json.loads(run("info", tmp_path / "p", "--record", "--json").stdout)
    assert [prompt["prompt"] for prompt in found["golden_logits"]["prompts"]] == [None, None]


def test_a_preset_must_be_named(run):
    result = run("info", "--record")
    assert result.exit_code == 2 and "needs a PRESET" in result.stderr
