"""A preset to a hub: whole, asked for before anything is replaced, and loadable from there."""

import inspect
import json
import shutil
import sys

import pytest
from hub_examples import KERAS, OWNER, hub_fixture
from hub_server import refusing

from keras_gemma.presets import BadPresetError, PresetAccessError, PresetError, bundle
from keras_gemma.presets.download import fetch
from keras_gemma.presets.upload import readme, upload_preset

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once

HF, KAGGLE = f"hf://{OWNER}", f"kaggle://{OWNER}/keras/tiny_en"


@pytest.fixture
def preset(tmp_path):
    folder = tmp_path / "preset"
    for name, data in {**KERAS, "old.part": b"x", ".hidden": b"x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(params=[HF, KAGGLE])
def handle(request, hub, monkeypatch):
    hub.repositories.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "kaggle_secret")
    return request.param


def test_what_was_uploaded_is_fetched_again(handle, hub, preset):
    address = upload_preset(handle, preset)
    assert address.endswith(handle.partition("://")[2])
    assert set(hub.repositories[OWNER]) == {*KERAS, "README.md"}
    folder = fetch(handle)
    assert {name: (folder / name).read_bytes() for name in KERAS} == KERAS


def test_what_is_there_is_replaced_only_when_somebody_says_so(handle, hub, preset, monkeypatch):
    upload_preset(handle, preset)
    (preset / "metadata.json").write_text('{"new": 1}')
    asked = []
    told = pytest.raises(PresetError, match=r"has .*config\.json.* already.*Nothing was uploaded")
    with told:
        upload_preset(handle, preset, overwrite=lambda question: asked.append(question))
    assert asked[0].endswith("Replace?")
    with told:
        upload_preset(handle, preset, overwrite=False)
    with pytest.raises(PresetError, match="Pass overwrite=True"):
        upload_preset(handle, preset)  # nobody is at the terminal
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    with told:
        upload_preset(handle, preset)
    assert hub.repositories[OWNER]["metadata.json"] == b"{}"
    monkeypatch.setattr("builtins.input", lambda question: " Yes ")
    upload_preset(handle, preset)
    assert hub.repositories[OWNER]["metadata.json"] == b'{"new": 1}'
    (preset / "metadata.json").write_text('{"new": 2}')
    upload_preset(handle, preset, overwrite=True)
    assert hub.repositories[OWNER]["metadata.json"] == b'{"new": 2}'


def test_a_page_of_ones_own_is_kept(handle, hub, preset):
    (preset / "README.md").write_text("# Mine")
    upload_preset(handle, preset)
    assert hub.repositories[OWNER]["README.md"] == b"# Mine"


def test_the_page_says_what_the_files_say_and_how_to_load(preset):
    text = readme(preset, HF)
    assert f'GemmaCausalLM.from_preset("{HF}")' in text
    for name, value in json.loads(KERAS["config.json"])["config"].items():
        assert f"| `{name}` | {value} |" in text
    table = bundle.read_backbone(preset)
    from keras_gemma.presets.sizes import parameter_count

    assert f"{parameter_count(*table):,} parameters" in text


@pytest.mark.parametrize(
    "lost, told",
    [
        ("config.json", "no config.json"),
        ("model.weights.h5", "has no weights"),
        ("assets", "has no tokenizer"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(handle, hub, preset, lost, told):
    place = preset / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(BadPresetError, match=told):
        upload_preset(handle, preset)
    assert not hub.repositories.get(OWNER)
    if lost != "config.json":
        upload_preset(handle, preset, allow_incomplete=True)
        assert "config.json" in hub.repositories[OWNER]


def test_a_missing_shard_is_refused(handle, preset):
    (preset / "model.weights.h5").unlink()
    index = {"weight_map": {"/a/vars": "model_00000.weights.h5"}}
    (preset / "model.weights.json").write_text(json.dumps(index))
    with pytest.raises(BadPresetError, match=r"has no model_00000\.weights\.h5"):
        upload_preset(handle, preset, allow_incomplete=True)


def test_a_stranger_is_told_how_to_sign_in(hub, preset, monkeypatch):
    for handle, command in ((HF, "hf auth login"), (KAGGLE, "KAGGLE_API_TOKEN")):
        with pytest.raises(PresetAccessError, match=command):
            upload_preset(handle, preset)
    assert not hub.asked


def test_a_place_that_may_not_be_written_to_is_told(handle, hub, preset):
    hub.faults["/api/repos/create"] = hub.faults["StartBlobUpload"] = refusing(403)
    with pytest.raises(PresetAccessError, match="403") as told:
        upload_preset(handle, preset)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("uri", ["gs://a/b", "hf://a/b@main", f"{KAGGLE}/3", "hf://a/b/c.gguf"])
def test_a_place_that_takes_no_upload_is_told(preset, uri):
    with pytest.raises(PresetError, match="uploads go to hf://"):
        upload_preset(uri, preset)


def test_the_arguments_of_keras_hub_are_ours_too():
    hub = pytest.importorskip("keras_hub")
    theirs = list(inspect.signature(hub.upload_preset).parameters)
    assert list(inspect.signature(upload_preset).parameters)[: len(theirs)] == theirs
