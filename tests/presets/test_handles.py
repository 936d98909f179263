"""Handles and the names of files: what is one, and what is refused unasked."""

import pytest
from hub_examples import HF, OWNER, hub_fixture

from keras_gemma.presets import BadPresetError, PresetError, handles
from keras_gemma.presets.download import fetch

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "handle, told",
    [
        ("hf://gemma", "OWNER/REPOSITORY"),
        ("hf://a/b@../c", "OWNER/REPOSITORY"),
        ("hf://a/../b", "OWNER/REPOSITORY"),
        ("hf://a/b/../../c.gguf", "no preset can have"),
        ("kaggle://keras/gemma", "OWNER/MODEL/FRAMEWORK/VARIATION"),
        ("kaggle://a/b/c/d/e", "version is a number"),
        ("kaggle://a/b/../d", "OWNER/MODEL"),
        ("modelscope://a/b", "modelscope download"),
        ("nowhere://x", "nowhere"),
        ("hf://", "no handle"),
        ("plain", "no handle"),
    ],
)
def test_a_handle_that_is_none_is_told_with_the_form_awaited(hub, handle, told):
    with pytest.raises(PresetError, match=told):
        fetch(handle)


def test_a_page_copied_from_the_browser_is_a_handle_too():
    parse = handles.parse
    assert (
        parse("https://huggingface.co/google/gemma-2b/tree/main")[1:4]
        == parse("hf://google/gemma-2b@main")[1:4]
    )
    assert (
        parse("https://www.kaggle.com/models/keras/gemma/keras/gemma_2b_en/3")[1:4]
        == parse("kaggle://keras/gemma/keras/gemma_2b_en/3")[1:4]
    )


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "..\\x", "a/../../x", "", "NUL"]
)
def test_an_index_that_names_files_elsewhere_is_refused(hub, name, tmp_path):
    index = b'{"weight_map": {"t": %s}}' % repr(name).replace("'", '"').encode()
    hub.repositories[OWNER]["model.safetensors.index.json"] = index
    with pytest.raises(BadPresetError, match="which no preset can have|device"):
        fetch(HF)
