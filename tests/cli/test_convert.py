"""The verb that converts: what it says, what it leaves, and its exit codes."""

import errno
import json
import os

import pytest

from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.presets import registry

if not (registry.root() / "gemma_tiny_en" / "model.weights.h5").exists():
    pytest.skip("presets/gemma_tiny_en has no weights", allow_module_level=True)

pytestmark = pytest.mark.once
TEMPLATE = "tokenizer.chat_template"


def test_a_full_disk_is_told_and_nothing_half_written_is_left(run, tmp_path, monkeypatch):
    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    for out in ("a.gguf", "b.ckpt", "c"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            result = run("convert", "gemma_tiny_en", tmp_path / out, "--format", FORMATS[out])
        assert result.exit_code == 5, result.output
        assert "is full. Make room" in result.stderr
    assert not list(tmp_path.iterdir())


FORMATS = {"a.gguf": "gguf", "b.ckpt": "gemma_pytorch", "c": "huggingface"}


def test_only_a_model_that_was_tuned_on_turns_gets_a_template_of_them(run, tmp_path):
    for name, chats in (("gemma_tiny_en", False), ("gemma_instruct_tiny_en", True)):
        folder, again = tmp_path / name, tmp_path / f"{name}_again.gguf"
        assert run("convert", name, tmp_path / f"{name}.gguf").exit_code == 0
        assert (TEMPLATE in GGUFFile(tmp_path / f"{name}.gguf").metadata) == chats
        assert run("convert", name, folder, "--format", "huggingface").exit_code == 0
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert ("chat_template" in config) == chats
        # What the first file says is what the next is told.
        assert run("convert", folder, again).exit_code == 0
        assert (TEMPLATE in GGUFFile(again).metadata) == chats
        third = tmp_path / f"{name}_third"
        assert run("convert", again, third, "--format", "huggingface").exit_code == 0
        config = json.loads((third / "tokenizer_config.json").read_text())
        assert ("chat_template" in config) == chats


def test_what_is_there_is_not_written_over(run, tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"mine")
    result = run("convert", "gemma_tiny_en", tmp_path / "a.gguf")
    assert result.exit_code == 2 and "is there already" in result.stderr
    assert (tmp_path / "a.gguf").read_bytes() == b"mine"
