"""What was fetched is known: no network is needed for it again, and what is missing has a name."""

from pathlib import Path

import pytest
from hub_examples import HF, KAGGLE, KERAS, OWNER, SHARD, hub_fixture, names, place_fixture
from hub_server import COMMIT, refusing

from keras_gemma.presets import PresetAccessError
from keras_gemma.presets.download import choose, fetch

__all__ = ["hub_fixture", "place_fixture"]
pytestmark = pytest.mark.once


class TestWithoutANetwork:
    def off(self, hub, monkeypatch, switch=False):
        if switch:
            from huggingface_hub import constants

            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            hub.is_off = True

    @pytest.mark.parametrize("switch", [False, True])
    def test_a_full_cache_works(self, place, hub, monkeypatch, switch):
        folder = fetch(place[0])
        self.off(hub, monkeypatch, switch)
        assert fetch(place[0]) == folder

    def test_a_cache_that_another_program_filled_works(self, hub, monkeypatch):
        import huggingface_hub

        folder = Path(huggingface_hub.snapshot_download(OWNER))
        self.off(hub, monkeypatch, switch=True)
        assert fetch(HF) == folder

    def test_a_kaggle_cache_that_another_program_filled_works(self, hub, monkeypatch):
        import kagglehub

        hub.repositories[OWNER] = dict(KERAS)
        for name in KERAS:
            path = kagglehub.model_download(KAGGLE.removeprefix("kaggle://"), path=name)
        folder = next(parent for parent in Path(path).parents if parent.name == "7")
        self.off(hub, monkeypatch)
        assert fetch(KAGGLE) == fetch(KAGGLE.removesuffix("/7")) == folder

    def test_a_partial_cache_names_what_is_missing(self, hub, monkeypatch):
        hub.faults[f"/cdn/{OWNER}/{SHARD}"] = refusing(503)
        with pytest.raises(PresetAccessError):
            fetch(HF)
        self.off(hub, monkeypatch)
        with pytest.raises(PresetAccessError, match=f"not in the cache: {SHARD}"):
            fetch(HF)

    def test_less_than_is_asked_for_names_what_is_missing(self, place, hub, monkeypatch):
        fetch(place[0], {"tokenizer"})
        self.off(hub, monkeypatch)
        with pytest.raises(PresetAccessError, match="not in the cache: its weights"):
            fetch(place[0])
        assert "tokenizer.json" in names(fetch(place[0], {"tokenizer"}))

    def test_an_empty_cache_says_so(self, place, hub, monkeypatch):
        self.off(hub, monkeypatch)
        with pytest.raises(PresetAccessError, match="nothing of it is in the cache"):
            fetch(place[0])


@pytest.mark.parametrize("pinned", [KAGGLE, f"{HF}@{COMMIT}"])
def test_what_can_not_change_is_not_even_asked_for(hub, pinned):
    hub.repositories[OWNER] = dict(KERAS)
    fetch(pinned)
    hub.asked.clear()
    assert "model.weights.h5" in names(fetch(pinned))
    assert not hub.asked


def test_a_second_time_nothing_is_transferred(place, hub):
    first = fetch(place[0])
    before = len([ask for ask in hub.asked if ask.method == "GET" and "/api/" not in ask.path])
    assert fetch(place[0]) == first
    after = len([ask for ask in hub.asked if ask.method == "GET" and "/api/" not in ask.path])
    assert before == after


def test_kaggle_goes_first_unless_only_the_other_hub_knows_one(hub, monkeypatch):
    sources = {"kaggle": KAGGLE, "huggingface": HF}
    assert choose(sources) == KAGGLE
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert choose(sources) == HF
    monkeypatch.setenv("KAGGLE_API_TOKEN", "x")
    assert choose(sources) == KAGGLE
    fetch(HF)
    assert choose(sources) == HF  # which is here already
