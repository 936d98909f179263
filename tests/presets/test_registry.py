import json

import pytest

from keras_gemma import presets
from keras_gemma.presets import registry

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


def test_a_published_preset_says_where_its_licence_is_accepted():
    with pytest.raises(presets.PresetAccessError) as error:
        presets.folder("gemma_2b_en")
    for part in (
        "kaggle://keras/gemma/keras/gemma_2b_en/3",
        "hf://google/gemma-2b",
        "Terms of Use",
    ):
        assert part in str(error.value)


def test_handles_and_missing_paths_are_told_apart(tmp_path):
    with pytest.raises(presets.PresetAccessError, match="downloads nothing yet"):
        presets.folder("kaggle://keras/gemma/keras/gemma_2b_en")
    with pytest.raises(presets.PresetError, match="no preset folder"):
        presets.folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(presets.PresetError, match="is a file"):
        presets.folder(tmp_path / "file")
    assert presets.folder(tmp_path) == tmp_path


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


def test_there_is_a_card_of_each_gemma_1_and_code_gemma_that_keras_hub_has():
    hub = pytest.importorskip("keras_hub")
    published = hub.models.GemmaBackbone.presets
    awaited = {
        name: preset
        for name, preset in published.items()
        if any(f"keras/{family}/" in preset["kaggle_handle"] for family in ("gemma", "codegemma"))
    }
    assert len(awaited) == 11
    for name, preset in awaited.items():
        card = registry.card(name)
        assert card["sources"]["kaggle"] == preset["kaggle_handle"]
        assert card["parameters"] == preset["metadata"]["params"]


def test_the_readme_is_the_one_that_the_cards_make():
    from keras_gemma.presets import table

    assert (registry.root() / "README.md").read_text() == table.page(), (
        "run python -m keras_gemma.presets.table"
    )
