# ruff: noqa: F401, F811 (fixtures are imported by name)
import random

import pytest
from vocabularies import TURNS, proto, real_proto, train

from keras_gemma.text.control_tokens import (
    TextParts,
    control_names,
    rewrites_letters,
    special_pieces,
)

pytestmark = pytest.mark.once


def test_parts_are_the_text_and_hold_no_name():
    random_ = random.Random(1)
    names = ["<a>", "<ab>", "aa", "[x]", "<a><b>", "ab<"]
    parts = TextParts(names, whitespace_mark=True)
    for _ in range(5000):
        text = "".join(random_.choice("<>ab[x]▁ ") for _ in range(random_.randint(0, 12)))
        cut = parts.cut(text)
        assert "".join(cut) == text
        assert not any(name in part for name in names for part in cut)
        assert all("▁" not in part or part == "▁" for part in cut)


def test_a_text_without_names_stays_whole():
    parts = TextParts(["<end_of_turn>"])
    for text in ("", "a < b", "<end_of_tur", "▁ stays where it is", "<<end_of_turn"):
        assert parts.cut(text) == [text]


@pytest.mark.parametrize("source", ["proto", "real_proto"])
def test_piece_types_equal_those_that_protobuf_reads(request, source):
    model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    proto = request.getfixturevalue(source)
    model = model_pb2.ModelProto()
    model.ParseFromString(proto)
    expected = [(i, p.piece, p.type) for i, p in enumerate(model.pieces) if p.type != 1]
    assert list(special_pieces(proto)) == expected
    user_defined = {piece for _, piece, kind in expected if kind == 4}
    names = set(control_names(proto))
    assert names & user_defined == {
        p for p in user_defined if p[0] in "<[" and p[-1] in ">]" and len(p) > 2
    }
    assert names - user_defined == {"<pad>", "<bos>", "<eos>"}


def test_only_a_normalizer_with_rules_rewrites(proto):
    assert not rewrites_letters(proto)
    assert rewrites_letters(train(TURNS, normalization_rule_name="nfkc"))
