import json
from pathlib import Path

import pytest
from hub_examples import HUGGING_FACE, KERAS, hub_fixture
from hub_server import refusing

from keras_gemma import Gemma3Backbone, GemmaBackbone, GemmaCausalLM, presets
from keras_gemma.conversion.description import describe
from keras_gemma.presets import registry

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder of cards with one bundled preset and one published one."""
    published = json.loads((registry.root() / "gemma_2b_en.json").read_text())
    (tmp_path / "gemma_2b_en.json").write_text(json.dumps(published))
    bundled = {k: published[k] for k in ("description", "family", "kind", "context_length")}
    bundled |= {
        "licence": {"name": "Apache-2.0", "text": "https://example.org", "accept_at": {}},
        "sources": {},
        "training": {
            "corpus": [{"title": "t", "licence": "l", "package": "p 1", "share": 1.0}],
            "tokens_seen": 10,
            "held_out_bits_per_byte": {"t": 1.5},
            "date": "2026-11-24",
            "command": "keras-gemma train tiny",
        },
        "skills": {"spell": {"accuracy": 0.98, "questions": 200, "held_out": True}},
    }
    (tmp_path / "tiny_en").mkdir()
    (tmp_path / "tiny_en/card.json").write_text(json.dumps(bundled))
    architecture = {**published["architecture"], "vocabulary_size": 2048}
    config = presets.registry.bundle.serialized(
        "GemmaBackbone", {"name": "backbone", "dtype": "bfloat16", **architecture}
    )
    (tmp_path / "tiny_en/config.json").write_text(json.dumps(config))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/quick.json").write_text('{"steps": 3}')
    monkeypatch.setattr(registry, "root", lambda: tmp_path)
    return tmp_path


def test_bundled_presets_stand_first_and_lie_in_their_folder(house):
    assert presets.names() == ["tiny_en", "gemma_2b_en"]
    assert presets.folder("tiny_en") == house / "tiny_en"


def test_a_bundled_card_takes_its_sizes_from_the_files_beside_it(house):
    card = presets.card("tiny_en")
    assert card["architecture"]["vocabulary_size"] == 2048
    assert card["parameters"] == 2_506_172_416 - (256_000 - 2048) * 2048
    assert (card["dtype"], card["bundled"]) == ("bfloat16", True)


@pytest.mark.parametrize("place", ["training", "skills"])
def test_a_bundled_card_that_leaves_something_out_is_told(house, place):
    path = house / "tiny_en/card.json"
    card = json.loads(path.read_text())
    card[place] = {"spell": {"accuracy": 1.0}}
    path.write_text(json.dumps(card))
    with pytest.raises(presets.BadPresetError, match=rf"card\.json, {place}.* lacks the field"):
        presets.card("tiny_en")


def test_an_unknown_preset_gets_the_nearest():
    with pytest.raises(presets.PresetError, match="Did you mean 'gemma_2b_en'"):
        presets.card("gema_2b_en")
    with pytest.raises(presets.PresetError, match="Did you mean"):
        presets.folder("gemma_instruct_2b")


def test_a_published_preset_says_where_its_licence_is_accepted(hub):
    hub.faults["ListModelInstanceVersionFiles"] = refusing(403)
    with pytest.raises(presets.PresetAccessError) as error:
        presets.folder("gemma_2b_en")
    accept_at = registry.card("gemma_2b_en")["licence"]["accept_at"]
    for part in ("kaggle://keras/gemma/keras/gemma_2b_en/3", accept_at["kaggle"], "login()"):
        assert part in str(error.value)
    hub.faults["/config.json"] = refusing(403, X_Error_Code="GatedRepo")
    hub.repositories["google/gemma-2b"] = {"config.json": b"{}"}
    for name in ("hf://google/gemma-2b", "google/gemma-2b"):
        with pytest.raises(presets.PresetAccessError) as error:
            presets.folder(name)
        assert accept_at["huggingface"] in str(error.value)


def test_a_name_a_source_and_a_repository_are_one_preset(hub):
    hub.repositories["keras/gemma"] = dict(KERAS)
    hub.repositories["google/gemma-2b"] = dict(HUGGING_FACE)
    assert presets.folder("gemma_2b_en") == presets.folder(
        "kaggle://keras/gemma/keras/gemma_2b_en/3"
    )
    place = presets.folder("google/gemma-2b", {"config"})
    assert json.loads((place / "config.json").read_text()) == {"model_type": "gemma"}
    assert place == presets.folder("hf://google/gemma-2b")


@pytest.mark.parametrize("name", [name for name in registry.names() if "tiny" not in name])
def test_every_source_of_a_card_finds_it(name):
    card = registry.card(name)
    for source in card["sources"].values():
        assert registry.alias(source) == name
        assert registry.card(source) == card == describe(source)
    if repository := card["sources"].get("huggingface"):
        assert registry.card(repository.removeprefix("hf://")) == card
        with pytest.raises(presets.PresetError, match="Did you mean|no preset"):
            registry.card(repository.removeprefix("hf://").upper())  # names keep their case


def test_what_is_known_of_a_handle_costs_its_config_and_no_weights(hub):
    hub.repositories["someone/tuned"] = dict(KERAS)
    facts = describe("hf://someone/tuned")
    assert facts["architecture"]["num_layers"] == 2
    assert not hub.downloads("model.weights.h5")
    hub.asked.clear()
    assert describe("hf://google/gemma-2b-it")["family"] == "Gemma 1"
    assert not hub.asked


def test_handles_paths_and_files_are_told_apart(hub, tmp_path):
    with pytest.raises(presets.PresetAccessError, match="404"):
        presets.folder("kaggle://keras/gemma/keras/gemma_2b_en")
    with pytest.raises(presets.PresetError, match="no preset folder"):
        presets.folder(tmp_path / "nowhere")
    with pytest.raises(
        presets.PresetError, match=r"Did you mean 'google/gemma-2b.*hf://google/gema"
    ):
        presets.folder("google/gema-2b")
    (tmp_path / "file").touch()
    with pytest.raises(presets.PresetError, match="neither"):
        presets.folder(tmp_path / "file")
    assert presets.folder(tmp_path) == tmp_path
    for name in ("model.gguf", "model.ckpt"):
        (tmp_path / name).touch()
        assert presets.folder(tmp_path / name) == tmp_path / name


def test_a_folder_of_ones_own_goes_before_a_published_name(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google/gemma-2b").mkdir(parents=True)
    assert presets.folder("google/gemma-2b") == Path("google/gemma-2b")
    assert not hub.asked


def test_recipes_go_by_name_or_by_file(house):
    assert presets.recipe("quick") == presets.recipe(house / "recipes/quick.json") == {"steps": 3}
    with pytest.raises(presets.PresetError, match="Did you mean 'quick'"):
        presets.recipe("quik")
    with pytest.raises(presets.BadPresetError, match="nowhere.json"):
        presets.recipe("nowhere.json")


@pytest.mark.parametrize("name", registry.names())
def test_every_card_keeps_the_schema_and_tells_the_right_number_of_parameters(name):
    card = registry.card(name)
    counted = registry.parameter_count(card["backbone"], card["architecture"])
    assert card["parameters"] == counted


def test_there_is_a_card_of_each_text_model_that_keras_hub_has():
    hub = pytest.importorskip("keras_hub")
    published = {**hub.models.GemmaBackbone.presets, **hub.models.Gemma3Backbone.presets}
    models = ("keras/gemma/", "keras/gemma2/", "keras/codegemma/", "google/shieldgemma/")
    awaited = {
        name: preset
        for name, preset in published.items()
        if any(model in preset["kaggle_handle"] for model in models)
        # Those of Gemma 3 that read images too have a counterpart that does not.
        or ("keras/gemma3/" in preset["kaggle_handle"] and f"{name}_text" not in published)
    }
    assert len(awaited) == 30
    assert set(awaited) == {name for name in registry.names() if not registry.is_bundled(name)}
    for name, preset in awaited.items():
        card = registry.card(name)
        assert card["sources"]["kaggle"] == preset["kaggle_handle"]
        assert card["parameters"] == preset["metadata"]["params"]


@pytest.mark.parametrize(
    "name, attention",
    [
        # Widths of keys and windows as DeepMind's own code has them (PyPI, gemma 3.3.0).
        ("gemma2_2b_en", (4 * 256, 4096)),
        ("gemma2_27b_en", (16 * 128, 4096)),
        ("gemma3_270m", (1 * 256, 512)),
        ("gemma3_1b", (1 * 256, 512)),
        ("gemma3_27b_text", (16 * 128, 1024)),
    ],
)
def test_attention_is_as_the_authors_have_it(name, attention):
    found = registry.card(name)["architecture"]
    width = found["num_key_value_heads"] * found["head_dim"]
    assert (width, found["sliding_window_size"]) == attention


@pytest.mark.parametrize("name", ["gemma2_27b_en", "gemma3_27b_text"])
def test_the_27b_divide_queries_by_what_the_width_gives_each_head(name):
    assert registry.card(name)["architecture"]["query_head_dim_normalize"] is False


@pytest.mark.parametrize(
    "recorded, told",
    [
        ({"checksums": {"kaggle": {"a": {"sha256": "0" * 64, "size": 3}}}}, None),
        ({"golden_logits": {"The sky": [1.0, 2.0]}}, None),
        ({"checksums": {"kaggle": {"a": {"sha256": "0" * 63, "size": 3}}}}, "64 hexadecimal"),
        ({"checksums": {"kaggle": {"a": {"sha256": "0" * 64}}}}, "lacks the field 'size'"),
        ({"checksums": {"elsewhere": {}}}, "no source"),
        ({"checksums": []}, "must be an object"),
        ({"golden_logits": 3}, "must be an object"),
        ({"kind": "poem"}, "kind='poem' must be one of base, .*safety"),
    ],
)
def test_what_is_recorded_in_a_card_keeps_its_form(house, recorded, told):
    path = house / "gemma_2b_en.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **recorded}))
    if told is None:
        assert registry.card("gemma_2b_en").items() >= recorded.items()
        return
    with pytest.raises(presets.BadPresetError, match=told):
        registry.card("gemma_2b_en")


def test_the_readme_is_the_one_that_the_cards_make():
    from keras_gemma.presets import table

    assert (registry.root() / "README.md").read_text() == table.page(), (
        "run python -m keras_gemma.presets.table"
    )


def test_a_class_lists_the_presets_of_its_family():
    """As in KerasHub: a dict of the class, not a function."""
    from keras_gemma.text import Gemma3Tokenizer, GemmaCausalLMPreprocessor, GemmaTokenizer

    hub = pytest.importorskip("keras_hub")
    for ours, theirs in ((GemmaBackbone, "GemmaBackbone"), (Gemma3Backbone, "Gemma3Backbone")):
        published = set(getattr(hub.models, theirs).presets)
        named = {name for name in ours.presets if not registry.is_bundled(name)}
        assert named <= published and len(named) >= 10
    assert GemmaBackbone.presets["gemma_2b_en"] == registry.card("gemma_2b_en")
    for cls in (GemmaCausalLM, GemmaCausalLMPreprocessor, GemmaTokenizer):
        assert cls.presets.keys() == GemmaBackbone.presets.keys()
    assert Gemma3Tokenizer.presets.keys() == Gemma3Backbone.presets.keys()
