"""Fetching Gemma's vocabularies for tests: once, by anybody, and never without saying what is missing."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import real_vocabularies
from real_vocabularies import NotHere, Vocabulary, path_of

pytestmark = pytest.mark.once


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A cache of its own, and pip's only source: a folder, in which the wheel is to be put."""
    for wanted in real_vocabularies.VOCABULARIES.values():
        monkeypatch.delenv(wanted.variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    real_vocabularies.fetch.cache_clear()
    yield tmp_path / "wheels"
    real_vocabularies.fetch.cache_clear()


def put_wheel(folder, data):
    folder.mkdir()
    with zipfile.ZipFile(folder / "maxtext-0.2.5-py3-none-any.whl", "w") as archive:
        for wanted in real_vocabularies.VOCABULARIES.values():
            archive.writestr(wanted.member, data)
        about = "maxtext-0.2.5.dist-info"
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: maxtext\nVersion: 0.2.5\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")


def test_a_vocabulary_is_fetched_once_and_then_needs_no_network(wheels, monkeypatch):
    data = b"pieces" * 100
    made = Vocabulary("maxtext/assets/a.model", hashlib.sha256(data).hexdigest(), "NOT_SET")
    monkeypatch.setattr(real_vocabularies, "VOCABULARIES", {"made": made})
    put_wheel(wheels, data)
    path = path_of("made")
    assert path.read_bytes() == data
    assert [each for each in real_vocabularies.cache().iterdir() if each != path.parent] == []
    (wheels / "maxtext-0.2.5-py3-none-any.whl").unlink()
    real_vocabularies.fetch.cache_clear()
    assert path_of("made") == path


def test_a_wheel_of_other_content_is_refused(wheels):
    put_wheel(wheels, b"of another")
    with pytest.raises(NotHere, match="tokenizer.gemma of maxtext==0.2.5 has another sha256"):
        path_of("gemma")


def test_without_a_network_it_says_what_is_missing(wheels):
    with pytest.raises(NotHere, match="wheel maxtext==0.2.5.*KERAS_GEMMA_TOKENIZER or"):
        path_of("gemma")


def test_a_file_that_the_environment_names_is_taken(wheels, monkeypatch):
    monkeypatch.setenv("KERAS_GEMMA_TOKENIZER", "/somewhere/tokenizer.model")
    assert path_of("gemma") == Path("/somewhere/tokenizer.model")


def test_two_processes_may_fetch_at_once(wheels):
    put_wheel(wheels, b"of another")
    command = [sys.executable, real_vocabularies.__file__, "gemma"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=100)[1] for process in both]
    assert all("has another sha256" in each for each in told), told  # and not that a file was gone
