"""The verb that fetches: from a server on this machine."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_examples import HUGGING_FACE, KERAS, OWNER, hub_fixture
from hub_server import refusing, slow

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once

HF = f"hf://{OWNER}"


def test_it_prints_the_folder_and_tells_of_each_file(run, hub):
    result = run("download", HF)
    assert result.exit_code == 0, result.output
    folder = Path(result.stdout.strip())
    assert (folder / "config.json").read_bytes() == HUGGING_FACE["config.json"]
    assert "model-00001-of-00002.safetensors  3.1 MB" in result.stderr
    again = run("download", HF)
    assert (again.stdout, again.stderr) == (result.stdout, "")


def test_parts_are_chosen_by_commas(run, hub):
    result = run("download", HF, "--parts", "config, tokenizer", "--json")
    told = json.loads(result.stdout)
    assert told["parts"] == ["config", "tokenizer"]
    assert result.stderr == ""
    names = {path.name for path in Path(told["folder"]).iterdir()}
    assert "tokenizer.model" in names
    assert not any("safetensors" in name for name in names)
    wrong = run("download", HF, "--parts", "weight")
    assert wrong.exit_code == 1
    assert "config, tokenizer, weights" in wrong.stderr


def test_what_is_bundled_is_here(run):
    result = run("download", "gemma_tiny_en")
    assert (Path(result.stdout.strip()) / "config.json").is_file()


def test_no_access_and_a_damaged_file_have_their_exit_codes(run, hub):
    hub.faults["/config.json"] = refusing(403, X_Error_Code="GatedRepo")
    result = run("download", HF)
    assert result.exit_code == 3
    assert "hf auth login" in result.stderr
    broken = b"\0" * len(HUGGING_FACE["model-00001-of-00002.safetensors"])
    hub.faults = {
        "00001-of-00002.safetensors": lambda it, count: _content(it) and it.status(200, {}, broken)
    }
    assert run("download", HF).exit_code == 4


def test_a_disk_without_room_has_its_exit_code(run, hub, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=65 * 2**20)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        result = run("download", HF)
    assert result.exit_code == 5
    assert "Make room, or set HF_HUB_CACHE" in result.stderr


def _content(handler):
    return handler.path.startswith("/cdn/")


CHILD = """
import sys
import huggingface_hub.constants
import kagglesdk.kaggle_env as kaggle
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 2**16
kaggle._env_to_endpoint[kaggle.KaggleEnv.LOCAL] = sys.argv.pop(1)
from keras_gemma.cli.main import main
main()
"""


@pytest.mark.parametrize("handle", [HF, f"kaggle://{OWNER}/keras/tiny_en/7"])
def test_on_a_terminal_there_is_one_bar_for_each_file_and_no_other(hub, tmp_path, handle):
    hub.repositories[OWNER] = dict(KERAS)
    hub.faults[f"/{OWNER}/model.weights.h5"] = slow(KERAS["model.weights.h5"], pieces=20)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hf")}
    environment |= {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", CHILD, hub.url, "download", handle]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not block:
                break
            shown += block
        folder = process.stdout.read().decode()
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    assert folder.count("\n") == 1
    assert (Path(folder.strip()) / "model.weights.h5").read_bytes() == KERAS["model.weights.h5"]
    assert "model.weights.h5" in text
    assert "MB/s" in text
    assert "3.1/3.1 MB" in text
    assert "%|" not in text  # the clients' bars
