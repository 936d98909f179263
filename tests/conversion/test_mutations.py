"""Every file of every kind of folder, damaged at random: read, or refused with our own error."""

import json
import shutil

import cases
import pytest
from huggingface_examples import proto, source
from mutations import mutated, mutated_text, survived

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma import GemmaCausalLM, GemmaCausalLMPreprocessor, export_checkpoint
from keras_gemma.conversion import formats
from keras_gemma.text import GemmaTokenizer

__all__ = ["proto"]
pytestmark = pytest.mark.once
COUNTS = [200, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, proto):
    """A folder of each kind, of one small model with its tokenizer."""
    home = tmp_path_factory.mktemp("folders")
    size = GemmaTokenizer(proto).vocabulary_size()
    backbone = cases.make("multi-query", vocabulary_size=size, num_layers=2)
    backbone = getattr(backbone, "backbone", backbone)
    model = GemmaCausalLM(backbone, GemmaCausalLMPreprocessor(GemmaTokenizer(proto)))
    model.save_to_preset(home / "keras_hub")
    backbone.save_to_preset(home / "keras_hub_sharded")
    (home / "keras_hub_sharded" / "model.weights.h5").unlink()
    backbone.save_weights(home / "keras_hub_sharded" / "model.weights.json", max_shard_size=0.001)
    export_checkpoint(model, home / "huggingface", "huggingface")
    huggingface.save(home / "huggingface_sharded", source(model), max_shard_bytes=20_000)
    shutil.copytree(home / "huggingface", home / "tokenizer_json")
    (home / "tokenizer_json" / "tokenizer.model").unlink()
    (home / "tokenizer_json" / "tokenizer.json").write_text(_small_tokenizer())
    (home / "gemma_pytorch").mkdir()
    export_checkpoint(model, home / "gemma_pytorch" / "model.ckpt", "gemma_pytorch")
    export_checkpoint(model, home / "gguf.gguf", "gguf")
    return home


def _small_tokenizer():
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "ab", "<x>"]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "merges": ["a b"]}
    model["vocab"] = {piece: index for index, piece in enumerate(pieces)}
    added = [{"id": index, "content": pieces[index], "special": True} for index in (0, 1, 2, 3, 7)]
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return json.dumps({"added_tokens": added, "normalizer": normalizer, "model": model})


def read_weights(folder):
    opened = formats.open_checkpoint(folder)
    for name in opened.tensors.headers():
        opened.tensors.read(name)


def read_headers(folder):
    formats.open_checkpoint(folder)


def read_text(folder):
    if formats.has_vocabulary(folder):
        formats.vocabulary(folder)
        GemmaTokenizer.from_preset(folder)
        GemmaCausalLMPreprocessor.from_preset(folder)


JSON = [
    ("keras_hub/config.json", read_headers),
    ("keras_hub/tokenizer.json", read_text),
    ("keras_hub/preprocessor.json", read_text),
    ("keras_hub_sharded/model.weights.json", read_weights),
    ("huggingface/config.json", read_headers),
    ("huggingface/tokenizer_config.json", read_text),
    ("huggingface_sharded/model.safetensors.index.json", read_weights),
    ("tokenizer_json/tokenizer.json", read_text),
]
BINARY = [
    ("keras_hub/assets/tokenizer/vocabulary.spm", read_text),
    ("huggingface/tokenizer.model", read_text),
    ("gemma_pytorch/model.ckpt", read_weights),
    ("gguf.gguf", read_weights),
]


def place_of(folders, file):
    """`(the file, the folder or file that is opened)`."""
    path = folders / file
    return path, path if "/" not in file else folders / file.partition("/")[0]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("file, read", JSON, ids=[file for file, _ in JSON])
def test_a_mutated_text_is_read_or_refused(folders, file, read, count):
    path, place = place_of(folders, file)
    read(place)
    survived(path, path.read_bytes(), lambda _: read(place), range(count), mutated_text)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("file, read", BINARY, ids=[file for file, _ in BINARY])
def test_a_mutated_file_is_read_or_refused(folders, file, read, count):
    path, place = place_of(folders, file)
    read(place)
    survived(path, path.read_bytes(), lambda _: read(place), range(count), mutated)
