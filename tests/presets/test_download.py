"""Getting files: from a server on this machine that speaks what the hubs speak, and fails at will."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hub_examples import (
    HF,
    HUGGING_FACE,
    KAGGLE,
    KERAS,
    OWNER,
    SHARD,
    WEIGHTS,
    hub_fixture,
    names,
    place_fixture,
)
from hub_server import cut, page, refusing, sha256, slow

from keras_gemma.presets import BadPresetError, PresetAccessError, PresetError, handles
from keras_gemma.presets.download import fetch

__all__ = ["hub_fixture", "place_fixture"]
pytestmark = pytest.mark.once


def test_what_came_is_what_lies_there(place):
    folder = fetch(place[0])
    assert {name: (folder / name).read_bytes() for name in names(folder)} == KERAS


def test_a_hugging_face_folder_comes_without_what_nobody_reads(hub):
    assert names(fetch(HF)) == sorted(
        set(HUGGING_FACE)
        - {"README.md", "tokenizer.json", "original/consolidated.bin", "pytorch_model.bin"}
        - {"model.gguf"}
    )


@pytest.mark.parametrize("parts", [{"config"}, {"tokenizer"}, {"config", "tokenizer"}])
def test_no_weights_come_for_less_than_a_model(place, hub, parts):
    folder = fetch(place[0], parts)
    assert "model.weights.h5" not in names(folder)
    assert ("assets/tokenizer/vocabulary.spm" in names(folder)) == ("tokenizer" in parts)
    assert not hub.downloads("model.weights.h5")


def test_a_file_asked_for_by_name_comes_alone(hub):
    path = fetch(f"{HF}/model.gguf")
    assert path.read_bytes() == HUGGING_FACE["model.gguf"]
    assert names(path.parent) == ["model.gguf"]
    web = fetch(f"{hub.url}/plain/{OWNER}/model.gguf")
    assert web.read_bytes() == HUGGING_FACE["model.gguf"]


def test_the_newest_version_is_asked_for_where_none_is_named(hub):
    hub.repositories[OWNER] = dict(KERAS)
    assert fetch(KAGGLE.removesuffix("/7")).name == "7"


@pytest.mark.parametrize("handle", [KAGGLE, KAGGLE.removesuffix("/7")])
def test_in_a_notebook_that_mounts_files_no_list_of_them_is_asked_for(hub, monkeypatch, handle):
    hub.repositories[OWNER] = dict(KERAS)
    monkeypatch.setenv("TBE_RUNTIME_ADDR", "nowhere:1")  # Colab's sign; its mounts are off here
    monkeypatch.setenv("DISABLE_COLAB_CACHE", "1")
    hub.faults["ListModelInstanceVersionFiles"] = refusing(500)
    folder = fetch(handle)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == KERAS


def test_a_cut_connection_is_gone_on_with_where_it_stopped(place, hub):
    handle, name = place
    hub.faults[f"/{OWNER}/{name}"] = cut(2**20, WEIGHTS, times=8)
    with pytest.raises(PresetAccessError, match="can't be reached"):
        fetch(handle)
    hub.faults.clear()
    hub.asked.clear()
    assert (fetch(handle) / name).read_bytes() == WEIGHTS
    begun = [ask.range for ask in hub.asked if ask.range]
    assert [int(text.removeprefix("bytes=").removesuffix("-")) for text in begun] == [2**20]


def test_a_server_without_ranges_gives_the_whole_file_again(hub):
    hub.repositories[OWNER] = dict(KERAS)
    handle, name = f"{hub.url}/plain/{OWNER}", "model.weights.h5"
    hub.faults[name] = cut(2**20, WEIGHTS)
    with pytest.raises(PresetAccessError):
        fetch(handle)
    hub.faults[name] = lambda handler, count: (
        handler.command == "GET" and handler.status(200, {}, WEIGHTS)
    )
    assert (fetch(handle) / name).read_bytes() == WEIGHTS


def test_a_file_that_changed_meanwhile_begins_anew(hub):
    hub.repositories[OWNER] = dict(KERAS)
    handle, name = f"{hub.url}/plain/{OWNER}", "model.weights.h5"
    hub.faults[name] = cut(2**20, WEIGHTS)
    with pytest.raises(PresetAccessError):
        fetch(handle)
    new = WEIGHTS[::-1]
    hub.repositories[OWNER][name] = new
    assert (fetch(handle) / name).read_bytes() == new
    hub.repositories[OWNER][name] = WEIGHTS
    assert (fetch(handle) / name).read_bytes() == WEIGHTS


CHILD = """
import os, sys
import huggingface_hub.constants
import kagglesdk.kaggle_env as kaggle
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 2**16
kaggle._env_to_endpoint[kaggle.KaggleEnv.LOCAL] = os.environ["HF_ENDPOINT"]
from keras_gemma.presets.download import fetch
print(fetch(sys.argv[1], say=lambda text: print(text, file=sys.stderr)))
"""


def start(hub, tmp_path, handle):
    """A process of its own that fetches."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hf")}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, handle],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("handle", [HF, KAGGLE])
def test_a_killed_download_goes_on_and_its_lock_is_broken_and_told(hub, tmp_path, handle):
    hub.repositories[OWNER] = dict(KERAS)
    hub.faults[f"/{OWNER}/model.weights.h5"] = slow(WEIGHTS)

    def begun():
        parts = [*tmp_path.rglob("*.part"), *tmp_path.rglob("model.weights.h5")]
        return any(path.stat().st_size > 2**20 for path in parts)

    with start(hub, tmp_path, handle) as process:
        until(begun)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    hub.faults.clear()
    hub.asked.clear()
    with pytest.warns(UserWarning, match=f"Process {process.pid} held .* is gone"):
        folder = fetch(handle)
    assert sha256((folder / "model.weights.h5").read_bytes()) == sha256(WEIGHTS)
    assert any(ask.range for ask in hub.asked)


@pytest.mark.parametrize("handle", [HF, KAGGLE])
def test_of_two_processes_one_fetches_and_the_other_waits(hub, tmp_path, handle):
    hub.repositories[OWNER] = dict(KERAS)
    hub.faults[f"/{OWNER}/model.weights.h5"] = slow(WEIGHTS)
    both = [start(hub, tmp_path, handle) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    # kagglehub tells of what it does on stdout: the last line is ours.
    folder = {out.splitlines()[-1] for out, _ in told}
    assert len(folder) == 1
    assert (Path(folder.pop()) / "model.weights.h5").read_bytes() == WEIGHTS
    assert len(hub.downloads(f"/cdn/{OWNER}/model.weights.h5")) == 1
    assert sum("is fetching the same" in error for _, error in told) == 1


def test_a_wrong_checksum_is_fetched_again_and_then_used(hub):
    broken = bytearray(WEIGHTS)
    broken[2**21] ^= 1
    hub.faults[f"/cdn/{OWNER}/{SHARD}"] = lambda handler, count: (
        count == 1 and handler.status(200, {}, bytes(broken))
    )
    folder = fetch(HF)
    assert (folder / SHARD).read_bytes() == WEIGHTS
    assert len(hub.downloads(f"/cdn/{OWNER}/{SHARD}")) == 2


def test_a_checksum_wrong_twice_is_refused_and_never_used(hub):
    broken = b"\0" * len(WEIGHTS)
    hub.faults[f"/cdn/{OWNER}/{SHARD}"] = lambda handler, count: handler.status(200, {}, broken)
    with pytest.raises(BadPresetError, match=r"sha256.*twice over.*\.corrupt"):
        fetch(HF)
    hub.faults.clear()
    assert (fetch(HF) / SHARD).read_bytes() == WEIGHTS


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 3}])
def test_a_checksum_of_the_card_is_compared(place, hub, wrong):
    handle, name = place
    scheme = handles.parse(handle).scheme
    told = {"sha256": sha256(KERAS[name]), "size": len(KERAS[name])}
    source = {"hf": "huggingface"}.get(scheme, scheme)
    card = {"sources": {}, "checksums": {source: {name: told | wrong}}}
    with pytest.raises(BadPresetError, match="awaited, twice over"):
        fetch(handle, card=card)
    card = {"sources": {}, "checksums": {source: {name: told}}}
    assert (fetch(handle, card=card) / name).read_bytes() == WEIGHTS


def test_a_hub_that_is_slow_is_waited_for(place, hub):
    handle, name = place
    hub.faults[f"/{OWNER}/{name}"] = slow(WEIGHTS, pieces=10)
    seen = []
    folder = fetch(handle, progress=lambda *told: seen.append(told))
    assert (folder / name).read_bytes() == WEIGHTS
    of_weights = [done for told, done, total in seen if told == name and total == len(WEIGHTS)]
    assert of_weights == sorted(of_weights)
    assert of_weights[0] == 0 and of_weights[-1] == len(WEIGHTS)
    assert len(set(of_weights)) > 2


@pytest.mark.parametrize("file", ["config.json", "model.weights.h5", "vocabulary.spm"])
def test_a_web_page_instead_of_a_file_is_refused_and_not_kept(place, hub, file):
    handle, _ = place

    def only_content(handler, count):
        content = handler.command == "GET" and not handler.path.startswith("/api/")
        return content and page(handler, count)

    hub.faults[file] = only_content
    with pytest.raises((BadPresetError, PresetAccessError), match="web page|bytes|reached"):
        fetch(handle)
    hub.faults.clear()
    folder = fetch(handle)
    assert {name: (folder / name).read_bytes() for name in KERAS} == KERAS


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(place, hub, monkeypatch):
    handle, name = place
    usage = shutil.disk_usage("/")._replace(free=65 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PresetError, match=r"3\.1 MB.*68\.2 MB are free.*set (HF|KAGGLE|KERAS)"):
        fetch(handle)
    assert not hub.downloads(f"/{OWNER}/{name}")


def test_a_disk_that_fills_up_leaves_nothing_behind(place, monkeypatch, tmp_path):
    handle, name = place

    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        if handle.startswith("kaggle"):
            patch.setattr("kagglehub.clients._download_file", full)
        with pytest.raises(PresetError, match="disk of .* is full"):
            fetch(handle)
    left = [*tmp_path.rglob("*.part"), *tmp_path.rglob(name)]
    assert not left
    assert (fetch(handle) / name).read_bytes() == WEIGHTS


def test_an_index_that_names_a_shard_that_is_not_there_is_told(hub):
    del hub.repositories[OWNER]["model-00002-of-00002.safetensors"]
    with pytest.raises(PresetAccessError, match="model-00002-of-00002.safetensors.*404"):
        fetch(HF)


def test_a_place_without_a_model_says_what_it_has(hub):
    hub.repositories[OWNER] = {"a.gguf": b"GGUF", "README.md": b"x"}
    with pytest.raises(PresetError, match=f"asked for by its name: {HF}/a.gguf"):
        fetch(HF)
    hub.repositories[OWNER] = {"README.md": b"x"}
    with pytest.raises(PresetError, match=r"holds no preset. There is: README.md"):
        fetch(HF)


def test_buckets_are_read_through_fsspec_and_go_on_where_they_stopped(hub, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, data in KERAS.items():
        memory.pipe(f"/bucket/{name}", data)
    from keras_gemma.presets import hub_folder

    part = WEIGHTS[: 2**20]
    copy = hub_folder.Folder._copy

    def stop(self, name, file, state):
        if name == "model.weights.h5":
            file.write(part)
            raise ConnectionResetError
        copy(self, name, file, state)

    with monkeypatch.context() as patch:
        patch.setattr(hub_folder.Folder, "_copy", stop)
        with pytest.raises(PresetAccessError, match="no connection"):
            fetch("memory://bucket")
    # Had it begun anew, this byte would be right.
    (path,) = (hub_folder.home() / "presets/files").rglob("model.weights.h5.*.part")
    path.write_bytes(b"!" + part[1:])
    folder = fetch("memory://bucket")
    assert (folder / "model.weights.h5").read_bytes() == b"!" + WEIGHTS[1:]


def test_parts_are_ones_that_there_are(hub):
    with pytest.raises(PresetError, match=r"parts=\['weight'\] must be some of config"):
        fetch(HF, {"weight"})


def test_a_hub_that_never_answers_is_not_waited_for(hub, monkeypatch):
    hub.repositories[OWNER] = dict(KERAS)
    monkeypatch.setattr("keras_gemma.presets.hub_kaggle.SECONDS", (1, 0.2))
    done = threading.Event()
    hub.faults["ListModelInstanceVersionFiles"] = lambda handler, count: done.wait(20) or True
    began = time.monotonic()
    with pytest.raises(PresetAccessError, match="can't be reached .no connection: ReadTimeout"):
        fetch(KAGGLE)
    done.set()
    assert time.monotonic() - began < 10
