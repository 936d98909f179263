# ruff: noqa: F401, F811 (fixtures are imported by name)
import base64
import copy
import pickle
import random

import keras
import numpy as np
import pytest
import sentencepiece
from vocabularies import (
    CODE,
    CORPUS,
    TURNS,
    any_tokenizer,
    code_tokenizer,
    proto,
    real_proto,
    real_tokenizer,
    tokenizer,
    train,
)

from keras_gemma.text import Gemma3Tokenizer, GemmaTokenizer

pytestmark = pytest.mark.once
TEXTS = [
    *CORPUS,
    "",
    " ",
    "  two  spaces \t\t and\n\n\nlines\r\n",
    "naïve façade 😀 日本語 עברית \u200d 🤷🏽‍♀️ \ufeff",
    "<bos>hi<eos><pad><unk>",
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "def f(x):\n    return {'a': [x, 12345]}\n" * 3,
    "<0x0A> a\0b \x01 [@BOS@] <unused0> </table><table>",
]


def adversarial(random_, names):
    """A text of names, halves of names, look-alikes, and what else confuses a tokenizer."""
    parts = [
        lambda: random_.choice(names),
        lambda: random_.choice(names)[: random_.randint(0, 8)],
        lambda: random_.choice(names)[random_.randint(0, 8) :],
        lambda: "<" * random_.randint(1, 3),
        lambda: random_.choice("▁ \n\t\0<[>]|a9é😀日"),
        lambda: "＜end_of_turn＞<end\u200b_of_turn>",
        lambda: chr(
            random_.choice([random_.randint(1, 0xD7FF), random_.randint(0xE000, 0x10FFFF)])
        ),
        lambda: random_.choice(CORPUS)[:20],
        lambda: "<start_<end_of_turn>of_turn>",
    ]
    return "".join(random_.choice(parts)() for _ in range(random_.randint(0, 12)))


# --- parity ---


@pytest.mark.parametrize("source", ["proto", "real_proto"])
def test_ids_and_texts_equal_sentencepiece_and_keras_hub(request, source):
    keras_hub_models = pytest.importorskip("keras_hub").models
    proto = request.getfixturevalue(source)
    ours, theirs = GemmaTokenizer(proto), keras_hub_models.GemmaTokenizer(proto)
    reference = sentencepiece.SentencePieceProcessor(model_proto=proto)
    ids = [row.tolist() for row in ours(TEXTS)]
    assert ids == reference.encode(TEXTS)
    assert ids == [list(map(int, row)) for row in theirs(TEXTS)]
    assert ours.detokenize(ids) == reference.decode(ids) == list(theirs.detokenize(ids))
    assert ours.get_vocabulary() == theirs.get_vocabulary()
    for name in ("start_token_id", "end_token_id", "pad_token_id", "end_token", "pad_token"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert set(ours.special_tokens) == set(theirs.special_tokens)
    assert set(ours.special_token_ids) == set(theirs.special_token_ids)
    for token in ("a", "<eos>", "no such piece", "<0x0A>"):
        assert ours.token_to_id(token) == theirs.token_to_id(token)


def test_options_of_keras_hub_give_its_ids(proto):
    models = pytest.importorskip("keras_hub").models
    for options in (
        {"sequence_length": 5},
        {"add_bos": True, "add_eos": True},
        {"add_bos": True, "add_eos": True, "sequence_length": 6},
        {"dtype": "int64"},
    ):
        ours, theirs = GemmaTokenizer(proto, **options), models.GemmaTokenizer(proto, **options)
        batch = ours(["a fox", "", "the lazy dog jumped over"])
        for row, expected in zip(batch, theirs(["a fox", "", "the lazy dog jumped over"])):
            assert list(row) == list(expected)
        assert ours("a fox").dtype == options.get("dtype", "int32")


def test_pieces_instead_of_ids(proto):
    tokenizer = GemmaTokenizer(proto, dtype="string")
    pieces = tokenizer("the quick fox")
    assert pieces == sentencepiece.SentencePieceProcessor(model_proto=proto).encode(
        "the quick fox", out_type=str
    )
    assert tokenizer.detokenize(pieces) == "the quick fox"


def test_gemmas_own_ids(real_tokenizer):
    known = [2, 1, 0, 106, 107]
    names = ["start_token", "end_token", "pad_token", "start_of_turn_token", "end_of_turn_token"]
    assert [getattr(real_tokenizer, f"{name}_id") for name in names] == known
    assert real_tokenizer("<end_of_turn>\n").tolist() == [107, 108]
    assert real_tokenizer.vocabulary_size() == 256_000
    assert real_tokenizer("\0").tolist() == [217]  # the first of the byte pieces


# --- what goes in ---


def test_one_text_gives_one_array_and_a_list_gives_a_list(tokenizer):
    ids = tokenizer("a fox")
    assert isinstance(ids, np.ndarray) and ids.dtype == np.int32 and ids.ndim == 1
    assert len(ids) == len(list(ids)) and f"{ids[0]:6}".strip() == str(ids[0])
    assert [row.tolist() for row in tokenizer(["a fox", ""])] == [ids.tolist(), []]
    assert tokenizer([["a fox"], []])[0][0].tolist() == ids.tolist() and tokenizer([]) == []
    for same in (b"a fox", np.array("a fox"), np.str_("a fox")):
        assert tokenizer(same).tolist() == ids.tolist()
    for batch in (np.array(["a fox", "b"]), np.array(["a fox", "b"], object), ("a fox", "b")):
        assert tokenizer(batch)[0].tolist() == ids.tolist()


def test_sequence_length_makes_one_array_of_a_batch(proto):
    tokenizer = GemmaTokenizer(proto, sequence_length=4)
    assert tokenizer(["a fox jumped over", "a"]).shape == (2, 4)
    assert tokenizer("a").shape == (4,) and tokenizer([]).shape == (0, 4)
    assert tokenizer("a").tolist()[1:] == [tokenizer.pad_token_id] * 3


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (["a", 3], TypeError, "position 1, not int"),
        ([["a"], ["b", None]], TypeError, "position 1, 1, not NoneType"),
        (None, TypeError, "not NoneType"),
        (7, TypeError, "not int"),
        ({"a": 1}, TypeError, "not dict"),
        (["fine", "lone \ud83d"], ValueError, "Text 1 holds a lone surrogate .* at character 5"),
        ("\udc00", ValueError, "lone surrogate"),
        ([b"ok", b"\xff\xfe"], ValueError, "position 1 are not UTF-8"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(tokenizer, bad, error, says):
    for control_tokens in (True, False):
        with pytest.raises(error, match=says):
            tokenizer(bad, control_tokens=control_tokens)


# --- what comes out ---


def test_detokenize_takes_integers_of_every_kind(tokenizer):
    ids = tokenizer("a fox")
    text = tokenizer.detokenize
    assert text(ids) == text(ids.tolist()) == text(tuple(ids)) == text(list(ids)) == "a fox"
    assert text(keras.ops.convert_to_tensor(ids)) == "a fox"
    assert text([ids, ids[:1]]) == ["a fox", "a"] == text([[list(ids), ids[:1]]])[0]
    assert text(np.stack([ids, ids])) == ["a fox", "a fox"]
    assert text([ids[0]]) == text(ids[0]) == text(int(ids[0])) == text(ids[:1]) == "a"
    assert text([]) == "" and text([[], ids]) == ["", "a fox"]


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        ([0, -1], ValueError, "Id -1 at position 1 .* 0 to"),
        ([10**6], ValueError, "Id 1000000 at position 0 is outside the vocabulary"),
        ([[1], [2, 10**12]], ValueError, "position 1, 1"),
        ([1, "a"], TypeError, "position 1, not str"),
        ([1.5], TypeError, "position 0, not float"),
        (2.5, TypeError, "not float"),
        ([[1], [None]], TypeError, "position 1, 0"),
    ],
)
def test_what_is_no_id_is_named_with_its_place(tokenizer, bad, error, says):
    with pytest.raises(error, match=says):
        tokenizer.detokenize(bad)


def test_ids_and_pieces_belong_together(tokenizer):
    vocabulary = tokenizer.get_vocabulary()
    assert len(vocabulary) == tokenizer.vocabulary_size()
    assert all(tokenizer.token_to_id(piece) == index for index, piece in enumerate(vocabulary))
    assert all(tokenizer.id_to_token(index) == piece for index, piece in enumerate(vocabulary))
    assert tokenizer.id_to_token(np.int64(2)) == "<bos>"
    assert tokenizer.token_to_id(b"<bos>") == 2
    assert tokenizer.token_to_id("no such piece") == tokenizer.unk_token_id
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.id_to_token(len(vocabulary))


def test_letters_without_a_piece_go_through_their_bytes(any_tokenizer):
    for text in ("😀", "𓀀", "\U0010fffd", "\x07\0", "é日𝄞"):
        assert any_tokenizer.detokenize(any_tokenizer(text)) == text
    bytes_of = {byte: index for index, byte in any_tokenizer.byte_values.items()}
    rare = "\U0010fffd"
    assert any_tokenizer(rare).tolist() == [bytes_of[byte] for byte in rare.encode()]
    assert any_tokenizer.detokenize([bytes_of[0xF0], bytes_of[0x41]]) == "�A"


# --- control tokens ---


def test_control_tokens_are_found_by_name(tokenizer, code_tokenizer):
    assert set(tokenizer.control_tokens) == {
        *TURNS, "<pad>", "<eos>", "<bos>", "[@BOS@]", "<unused0>", "<table>",
    }  # fmt: skip
    assert tokenizer.fim_prefix_token_id is None
    assert set(CODE) < set(code_tokenizer.control_tokens)
    for name in ("fim_prefix", "fim_middle", "fim_suffix"):
        index = getattr(code_tokenizer, f"{name}_token_id")
        assert code_tokenizer.id_to_token(index) == f"<|{name}|>"
    assert code_tokenizer.file_separator_token == "<|file_separator|>"
    assert code_tokenizer("<|fim_prefix|>x").tolist()[0] == code_tokenizer.fim_prefix_token_id


def test_ids_follow_the_vocabulary_and_no_table_of_ours():
    moved = GemmaTokenizer(train(["<x>", *TURNS], pad_id=3, bos_id=0, unk_id=2))
    assert (moved.pad_token_id, moved.start_token_id) == (3, 0)
    assert moved.end_of_turn_token_id == moved.token_to_id("<end_of_turn>") == 6


def test_no_control_token_comes_out_of_a_text_and_it_decodes_to_itself(any_tokenizer):
    random_ = random.Random(5)
    names = list(any_tokenizer.control_tokens)
    texts = [adversarial(random_, names) for _ in range(4000)] + TEXTS + names
    raw = any_tokenizer(texts)
    rows = any_tokenizer(texts, control_tokens=False)
    controls = set(any_tokenizer.control_tokens.values())
    assert sum(bool(controls & set(row.tolist())) for row in raw) > 1000  # the texts do attack
    assert not any(controls & set(row.tolist()) for row in rows)
    assert any_tokenizer.detokenize(rows) == texts
    assert [any_tokenizer.encode(text) for text in texts[:50]] == [r.tolist() for r in rows[:50]]


def test_texts_without_names_are_encoded_as_ever(any_tokenizer):
    texts = [text for text in TEXTS if not any(n in text for n in any_tokenizer.control_tokens)]
    assert len(texts) > 8
    for raw, safe in zip(any_tokenizer(texts), any_tokenizer(texts, control_tokens=False)):
        assert raw.tolist() == safe.tolist()


def test_names_inside_names_and_rewriting_normalizers_do_not_get_through():
    tokenizer = GemmaTokenizer(train(["<a<b>>", "<b>", "<b><", *TURNS]))
    controls = set(tokenizer.control_tokens.values())
    for text in ("<a<b>>", "<b><b>", "<<a<b>><b><", "<a<a<b>>>"):
        ids = tokenizer.encode(text)
        assert not controls & set(ids) and tokenizer.detokenize(ids) == text
    # This one makes ordinary letters of full-width ones before it looks for names.
    rewriting = GemmaTokenizer(train([*TURNS], normalization_rule_name="nfkc"))
    assert rewriting.end_of_turn_token_id in rewriting("＜end_of_turn＞").tolist()
    assert rewriting.end_of_turn_token_id not in rewriting.encode("a ＜end_of_turn＞ <end_of_turn>")


def test_a_vocabulary_without_byte_pieces_works():
    tokenizer = GemmaTokenizer(train(TURNS, size=80, byte_fallback=False))
    assert tokenizer.byte_values == {} and tokenizer.mark_ids == []
    assert tokenizer.encode("▁") == tokenizer.encode(" ")
    assert tokenizer("日").tolist() == [tokenizer.unk_token_id]


# --- files ---


def test_every_form_of_a_proto_gives_the_same_tokenizer(proto, tmp_path):
    path = tmp_path / "some.model"
    path.write_bytes(proto)
    for form in (proto, str(path), path, base64.b64encode(proto).decode()):
        assert GemmaTokenizer(form).proto == proto


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (b"", ValueError, "empty"),
        (b"junk", ValueError, "4 bytes are no SentencePiece model"),
        (3, TypeError, "not int"),
        ("no/such/file.model", FileNotFoundError, "file.model"),
    ],
)
def test_a_bad_proto_is_refused_when_loaded(bad, error, says):
    with pytest.raises(error, match=says):
        GemmaTokenizer(bad)


def test_a_vocabulary_without_gemmas_tokens_is_refused(proto):
    with pytest.raises(ValueError, match="of [0-9]+ pieces has no '<bos>'"):
        GemmaTokenizer(train(TURNS, bos_piece="<s>"))
    with pytest.raises(ValueError, match="no SentencePiece model"):
        GemmaTokenizer(proto[: len(proto) // 2])
    with pytest.raises(ValueError, match="dtype='float32'"):
        GemmaTokenizer(proto, dtype="float32")
    with pytest.raises(TypeError, match="no argument \\['lowercase'\\]"):
        GemmaTokenizer(proto, lowercase=True)
    empty = GemmaTokenizer()
    for use in (lambda: empty("a"), lambda: empty.detokenize([1]), lambda: empty.save_assets(".")):
        with pytest.raises(ValueError, match="no vocabulary"):
            use()


def test_config_pickle_and_copies_give_the_same_tokenizer(proto):
    first = GemmaTokenizer(proto, sequence_length=9, add_bos=True, dtype="int64", name="mine")
    through_keras = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(first)
    )
    copies = [GemmaTokenizer.from_config(first.get_config()), through_keras]
    copies += [pickle.loads(pickle.dumps(first)), copy.deepcopy(first), copy.copy(first)]
    for again in copies:
        assert type(again) is GemmaTokenizer and again.get_config() == first.get_config()
        assert again("a fox <end_of_turn>").tolist() == first("a fox <end_of_turn>").tolist()
    assert "vocabulary_size=" in repr(first) and repr(GemmaTokenizer())


def test_a_config_opens_no_file(tmp_path, proto):
    path = tmp_path / "some.model"
    path.write_bytes(proto)
    with pytest.raises(ValueError, match="base64"):
        GemmaTokenizer.from_config({"proto": str(path)})


# KerasHub leaves the vocabulary file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cls", [GemmaTokenizer, Gemma3Tokenizer])
def test_preset_folders_are_keras_hubs_both_ways(cls, proto, tmp_path):
    models = pytest.importorskip("keras_hub").models
    their_class = getattr(models, cls.__name__)
    _backbone(models, cls).save_to_preset(str(tmp_path))
    cls(proto, add_bos=True).save_to_preset(tmp_path)
    theirs = their_class.from_preset(str(tmp_path))
    assert type(theirs) is their_class and theirs.add_bos
    assert list(theirs("a fox")) == [2, *cls(proto)("a fox")]
    theirs.save_to_preset(str(tmp_path))
    ours = cls.from_preset(tmp_path)
    assert type(ours) is cls and ours.add_bos and ours("a fox").tolist() == list(theirs("a fox"))
    assert (
        cls.from_preset(str(tmp_path), add_bos=False)("a fox").tolist() == list(theirs("a fox"))[1:]
    )


def _backbone(models, cls):
    names = ["vocabulary_size", "num_layers", "num_query_heads", "num_key_value_heads"]
    names += ["hidden_dim", "intermediate_dim", "head_dim"]
    sizes = dict(zip(names, [8, 1, 1, 1, 4, 4, 4]))
    if cls is GemmaTokenizer:
        return models.GemmaBackbone(**sizes)
    return models.Gemma3Backbone(**sizes, image_size=16, vision_encoder=None)
