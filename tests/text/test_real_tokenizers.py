"""Gemma's own vocabularies on 10,000 texts: ids of SentencePiece and of Transformers, and back again."""

import json

import pytest
import sentencepiece
from many_texts import SCRIPTS, many_texts
from vocabularies import real

from keras_gemma.conversion.huggingface.tokenizer_json import json_of_model, proto_of_json
from keras_gemma.conversion.sentencepiece_proto import parse_model
from keras_gemma.text import Gemma3Tokenizer, GemmaTokenizer

pytestmark = pytest.mark.once
KINDS = {"gemma": GemmaTokenizer, "gemma3": Gemma3Tokenizer}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """`(name, SentencePiece's processor, our tokenizer)`."""
    data = real(request.param)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    return request.param, processor, KINDS[request.param](data)


@pytest.fixture(scope="module")
def texts(kind):
    return many_texts(10_000, list(kind[2].control_tokens))


def test_the_texts_are_of_all_kinds(kind, texts):
    letters = {letter for text in texts for letter in text}
    assert len(texts) == len(set(texts)) == 10_000
    for first, last in SCRIPTS.values():
        assert len(letters.intersection(map(chr, range(first, last + 1)))) >= min(32, last - first)
    _, processor, _ = kind
    used = {index for row in processor.encode(texts) for index in row}
    assert len(used) > 7_000


def test_ids_are_those_of_sentencepiece(kind, texts):
    _, processor, ours = kind
    assert ours.vocabulary_size() == processor.vocab_size()
    expected = processor.encode(texts)
    assert [row.tolist() for row in ours(texts)] == expected
    assert ours.encode_batch(texts, control_tokens=True) == expected
    assert [ours.encode(text, control_tokens=True) for text in texts[:500]] == expected[:500]


def test_every_text_comes_back_from_its_ids(kind, texts):
    _, _, ours = kind
    rows = ours.encode_batch(texts)
    assert [ours.encode(text) for text in texts[:2000]] == rows[:2000]
    assert ours.detokenize(rows) == texts
    controls = set(ours.control_tokens.values())
    assert not any(controls.intersection(row) for row in rows)


def test_texts_without_names_have_the_same_ids_whoever_wrote_them(kind, texts):
    _, processor, ours = kind
    plain = [text for text in texts if ours.parts.cut(text) == [text] and "▁" not in text]
    assert len(plain) > 6_000
    assert ours.encode_batch(plain) == processor.encode(plain)


@pytest.mark.slow
def test_transformers_and_its_file_alone_give_the_same_ids(kind, texts, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    _, processor, ours = kind
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json_of_model(parse_model(ours.proto)), ensure_ascii=False))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    alone = sentencepiece.SentencePieceProcessor(model_proto=proto_of_json(path))
    # In a text, SentencePiece knows the mark of spaces as a space, and `<bos>` as seven letters.
    strange = ("▁", "<bos>", "<eos>", "<pad>", "<unk>")
    known = [text for text in texts if not any(part in text for part in strange)]
    expected = processor.encode(known)
    assert len(known) > 9_000
    assert theirs(known, add_special_tokens=False)["input_ids"] == expected
    assert alone.encode(known) == expected
