"""Which published preset something at hand has the shapes of, and where that is said."""

import json
from pathlib import Path

import pytest

import keras_gemma.conversion.huggingface.checkpoint as huggingface
import keras_gemma.conversion.keras_hub.checkpoint as keras_hub
from keras_gemma.cli.main import verbs
from keras_gemma.conversion.checkpoint import Checkpoint
from keras_gemma.conversion.description import describe
from keras_gemma.conversion.tensors import Stored
from keras_gemma.conversion.weight_map import entries
from keras_gemma.presets import BadPresetError, bundle, registry
from keras_gemma.presets.lookalikes import families, hint, looks_like
from keras_gemma.presets.sizes import weight_shapes

pytestmark = pytest.mark.once
PUBLISHED = [name for name in registry.names() if not registry.is_bundled(name)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_published_preset_looks_like_itself_and_like_a_base_model_first(name):
    card = registry.card(name)
    found = looks_like(card["backbone"], card["architecture"])
    assert name in found
    assert registry.card(found[0])["kind"] == "base"


def test_one_number_or_option_else_is_no_likeness():
    sizes = registry.card("gemma_2b_en")["architecture"]
    assert looks_like("GemmaBackbone", {**sizes, "dropout": 0.1, "name": "mine"})
    assert looks_like("GemmaBackbone", {**sizes, "final_logit_soft_cap": None})
    assert not looks_like("GemmaBackbone", {**sizes, "vocabulary_size": 256_001})
    assert not looks_like("GemmaBackbone", {**sizes, "final_logit_soft_cap": 30.0})
    assert not looks_like("Gemma3Backbone", sizes)
    assert hint(lambda backbone, config: False) == ""
    assert families(262_144) == ["Gemma 3"] and families(7) == []


class Headers:
    """What a file of a card's tensors says of itself."""

    path = Path("model")

    def __init__(self, card, rules):
        shapes = weight_shapes(card["backbone"], card["architecture"])
        self.shapes = {entry.theirs: entry.shape for entry in entries(rules, shapes)}

    def headers(self):
        return {name: Stored(shape, "bfloat16") for name, shape in self.shapes.items()}


def rules_of(format, card):
    if format == "keras_hub":
        return keras_hub.rules(card["backbone"])
    return huggingface.rules(card["architecture"].get("use_post_ffw_norm", False))


@pytest.mark.parametrize("format", ["huggingface", "keras_hub"])
@pytest.mark.parametrize(
    "said, held",
    [
        ("gemma_2b_en", "gemma_7b_en"),
        ("gemma2_9b_en", "gemma2_2b_en"),
        ("gemma3_1b", "gemma3_270m"),
    ],
)
def test_a_file_of_another_size_is_told_by_its_name(format, said, held):
    said, rules = registry.card(said), rules_of(format, registry.card(held))
    tensors = Headers(registry.card(held), rules)
    opened = Checkpoint(said["backbone"], said["architecture"], tensors, rules, lambda name: False)
    with pytest.raises(BadPresetError, match=rf"has shape .*It looks like {held}\.$"):
        opened.check()


def test_a_file_that_is_like_none_gets_no_such_hint():
    card = registry.card("gemma_2b_en")
    rules = rules_of("huggingface", card)
    tensors = Headers(card, rules)
    del tensors.shapes["model.norm.weight"]
    opened = Checkpoint(card["backbone"], card["architecture"], tensors, rules, lambda name: False)
    with pytest.raises(BadPresetError) as caught:
        opened.check()
    assert "model.norm.weight (2048,) is missing" in str(caught.value)
    assert "looks like" not in str(caught.value)


def test_a_folder_is_told_to_look_like_a_published_one(tmp_path):
    from click.testing import CliRunner

    config = registry.card("gemma_7b_en")["architecture"]
    bundle.write(tmp_path / "p", {"config.json": bundle.serialized("GemmaBackbone", config)})
    assert describe(tmp_path / "p")["looks_like"][0] == "gemma_7b_en"
    shown = CliRunner().invoke(verbs, ["info", str(tmp_path / "p")]).stdout
    assert "looks like" in shown and "gemma_7b_en, code_gemma" in shown
    config = {**config, "hidden_dim": 3074}
    bundle.write(tmp_path / "q", {"config.json": bundle.serialized("GemmaBackbone", config)})
    told = CliRunner().invoke(verbs, ["info", str(tmp_path / "q"), "--json"]).stdout
    assert json.loads(told)["looks_like"] == []
