"""What is said when a place refuses, and what is never said."""

import sys

import pytest
from hub_examples import HF, KAGGLE, OWNER, hub_fixture
from hub_server import page, refusing

from keras_gemma.presets import PresetAccessError, registry
from keras_gemma.presets.download import fetch

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once


def test_a_gated_model_tells_where_and_how_and_no_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.faults["config.json"] = refusing(403, X_Error_Code="GatedRepo", X_Error_Message="hf_secret")
    with pytest.raises(PresetAccessError) as told:
        fetch(HF)
    text = str(told.value)
    assert f"https://huggingface.co/{OWNER}" in text
    assert "hf auth login" in text
    assert "HF_TOKEN" in text
    assert "hf_secret" not in text
    card = registry.card("gemma_2b_en")
    assert card["licence"]["accept_at"]["huggingface"] in str(
        pytest.raises(PresetAccessError, fetch, HF, card=card).value
    )


@pytest.mark.parametrize("status", [401, 403])
def test_kaggle_tells_where_access_is_granted(hub, status, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "kaggle_secret")
    hub.faults["ListModelInstanceVersionFiles"] = refusing(status)
    with pytest.raises(PresetAccessError) as told:
        fetch(KAGGLE)
    text = str(told.value)
    assert f"https://www.kaggle.com/models/{OWNER}" in text
    assert "kagglehub.login()" in text
    assert "KAGGLE_API_TOKEN" in text
    assert "kaggle_secret" not in text


def test_a_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(HF)
    tokens = {"/cdn/" in ask.path: ask.token for ask in hub.asked}
    assert tokens == {False: "Bearer hf_secret", True: None}


def test_a_mistyped_name_gets_the_nearest(hub):
    with pytest.raises(PresetAccessError, match=f"401.*Did you mean '{HF}'"):
        fetch("hf://someone/gema", known=[HF, "hf://other/thing"])
    with pytest.raises(PresetAccessError, match=r"404.*Did you mean 'model.gguf'"):
        fetch(f"{HF}/modle.gguf")
    with pytest.raises(PresetAccessError, match=f"404.*Did you mean '{KAGGLE}'"):
        fetch(KAGGLE.replace("gemma", "gema"), known=[KAGGLE])


def test_an_error_in_an_answer_that_says_all_is_well_is_one(hub):
    hub.faults["ListModelInstanceVersionFiles"] = lambda handler, count: handler.json(
        {"code": 403, "message": "no"}
    )
    with pytest.raises(PresetAccessError, match="access is refused"):
        fetch(KAGGLE)


@pytest.mark.parametrize(
    "status, told", [(429, "429.*wait 7 seconds"), (503, "503.*later"), (500, "500"), (418, "418")]
)
def test_a_hub_in_trouble_is_told_as_such(hub, status, told):
    hub.faults["/revision/main"] = refusing(status, Retry_After="7")
    with pytest.raises(PresetAccessError, match=told):
        fetch(HF)
    hub.faults = {"ListModelInstanceVersionFiles": refusing(status, Retry_After="7")}
    with pytest.raises(PresetAccessError, match=told):
        fetch(KAGGLE)
    hub.faults = {"/config.json": refusing(status, Retry_After="7")}
    with pytest.raises(PresetAccessError, match=told):
        fetch(f"{hub.url}/plain/{OWNER}")


def test_a_proxy_that_answers_for_the_hub_is_told(hub):
    hub.faults["/revision/main"] = hub.faults["ListModelInstanceVersionFiles"] = page
    for handle in (HF, KAGGLE):
        with pytest.raises(PresetAccessError, match="proxy"):
            fetch(handle)


@pytest.mark.parametrize("package", ["huggingface_hub", "kagglehub"])
def test_a_missing_client_is_told_with_the_line_that_installs_it(hub, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    handle = HF if package == "huggingface_hub" else KAGGLE
    with pytest.raises(PresetAccessError, match=f"pip install {package.replace('_', '-')}"):
        fetch(handle)
