# ruff: noqa: F401, F811 (fixtures are imported by name)
"""SentencePiece's model file, read and written by hand: SentencePiece itself is the judge."""

import numpy as np
import pytest
import sentencepiece
from vocabularies import RUNS, TURNS, proto, real_proto, train

from keras_gemma.conversion import sentencepiece_proto as spm
from keras_gemma.conversion.sentencepiece_proto import parse_model, serialize_model
from keras_gemma.presets import BadPresetError, folder

pytestmark = pytest.mark.once

TEXTS = [
    "Once upon a time there was a fox who lived in the forest.",
    "  two  spaces\n\n and\ttabs \t\t 12345 ",
    "<start_of_turn>user\nhi<end_of_turn>\n<table> [@BOS@] <unused0> <bos>",
    "Grüße, 世界, नमस्ते, 🦊🏳️‍🌈, \x00\x07, ▁ marks ▁▁",
    "",
]


@pytest.fixture
def bundled_proto():
    place = folder("gemma_tiny_en") / "assets" / "tokenizer" / "vocabulary.spm"
    return place.read_bytes()


@pytest.fixture(params=["proto", "bundled_proto", "real_proto"])
def any_proto(request):
    return request.getfixturevalue(request.param)


def kinds(processor):
    """The type of every piece, as far as SentencePiece tells it."""
    asked = {
        spm.UNKNOWN: processor.is_unknown,
        spm.CONTROL: processor.is_control,
        spm.UNUSED: processor.is_unused,
        spm.BYTE: processor.is_byte,
    }
    ids = range(processor.vocab_size())
    return [next((kind for kind, is_it in asked.items() if is_it(i)), None) for i in ids]


def test_pieces_scores_and_types_are_those_of_sentencepiece(any_proto):
    model = parse_model(any_proto)
    judge = sentencepiece.SentencePieceProcessor(model_proto=any_proto)
    ids = list(range(judge.vocab_size()))
    assert model.pieces == judge.id_to_piece(ids)
    np.testing.assert_array_equal(model.scores, np.float32([judge.get_score(i) for i in ids]))
    assert model.types.tolist() == [kind or model.types[i] for i, kind in enumerate(kinds(judge))]
    assert set(model.types.tolist()) >= {spm.NORMAL, spm.UNKNOWN, spm.CONTROL, spm.USER_DEFINED}
    assert model.ids == {"unk": judge.unk_id(), "bos": 2, "eos": 1, "pad": 0}
    assert model.names == {"unk": "<unk>", "bos": "<bos>", "eos": "<eos>", "pad": "<pad>"}


def test_there_and_back_gives_the_same_ids(any_proto):
    back = serialize_model(parse_model(any_proto))
    judge, ours = (
        sentencepiece.SentencePieceProcessor(model_proto=data) for data in (any_proto, back)
    )
    ids = list(range(judge.vocab_size()))
    assert ours.id_to_piece(ids) == judge.id_to_piece(ids)
    assert kinds(ours) == kinds(judge)
    assert ours.encode(TEXTS) == judge.encode(TEXTS)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(ours, name)() == getattr(judge, name)()
    for row in judge.encode(TEXTS):
        assert ours.decode(row) == judge.decode(row)


def test_there_and_back_keeps_all_fields(any_proto):
    model = parse_model(any_proto)
    again = parse_model(serialize_model(model))
    for field, value in model._asdict().items():
        np.testing.assert_array_equal(getattr(again, field), value)


@pytest.mark.parametrize(
    "options",
    [
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"byte_fallback": False},
        {"model_type": "unigram", "size": 350},
        {"normalization_rule_name": "nmt_nfkc"},
        {"pad_id": -1, "bos_id": 0},
    ],
)
def test_other_settings_survive_as_well(options):
    data = train([*TURNS, *RUNS], **options)
    back = serialize_model(parse_model(data))
    judge, ours = (
        sentencepiece.SentencePieceProcessor(model_proto=given) for given in (data, back)
    )
    assert ours.encode(TEXTS) == judge.encode(TEXTS)
    assert (ours.pad_id(), ours.bos_id()) == (judge.pad_id(), judge.bos_id())


def test_protobuf_reads_what_we_wrote(proto):
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", exc_type=Exception)
    original, ours = pb2.ModelProto(), pb2.ModelProto()
    original.ParseFromString(proto)
    ours.ParseFromString(serialize_model(parse_model(proto)))
    assert list(ours.pieces) == list(original.pieces)
    for field in ("model_type", "vocab_size", "byte_fallback", "unk_id", "pad_id", "pad_piece"):
        assert getattr(ours.trainer_spec, field) == getattr(original.trainer_spec, field)
    fields = ("name", "add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces")
    for field in fields:
        assert getattr(ours.normalizer_spec, field) == getattr(original.normalizer_spec, field)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a piece without its length
        b"\x0a\xff\xff\xff\xff\x0f",  # of 4 GiB
        b"\x0a" + b"\x80" * 20,  # a length that never ends
        b"\x0b",  # a group, which protobuf gave up
        b"\x08\x01",  # a number where pieces stand
        b"\x0a\x02\x08\x01",  # a number where a name stands
        b"\x0a\x04\x0a\x02\xff\xfe",  # no UTF-8
        b"\x0a\x07\x0a\x01a\x18\x63",  # a piece cut short
        b"\x0a\x05\x0a\x01a\x18\x63",  # a type that there is not
        b"\x12\x02\xff\xff",  # settings cut short
    ],
)
def test_bytes_that_are_no_model_are_refused(data):
    with pytest.raises(BadPresetError, match="here.spm is truncated or damaged"):
        parse_model(data, "here.spm")


def test_random_mutations_are_read_or_refused(proto):
    random, refused = np.random.default_rng(5), 0
    for _ in range(1000):
        data = bytearray(proto)
        for at in random.integers(len(data), size=random.integers(1, 8)):
            data[at] = random.integers(256)
        try:
            serialize_model(parse_model(bytes(data[: random.integers(1, len(data) * 2)])))
        except BadPresetError:
            refused += 1
    assert 100 < refused < 1000
