"""`tokenizer.json` and SentencePiece's model: made of each other, they cut every text alike."""

import json
import random

import pytest
import sentencepiece
from guards import within_a_second
from vocabularies import CODE, CORPUS, RUNS, TURNS, train

from keras_gemma.conversion.huggingface.tokenizer_json import json_of_model, proto_of_json
from keras_gemma.conversion.sentencepiece_proto import UNIGRAM, parse_model, serialize_model
from keras_gemma.presets import BadPresetError
from keras_gemma.text import GemmaTokenizer

pytestmark = pytest.mark.once
NAMES = [*TURNS, "<mask>", "<unused0>", "[@BOS@]", "<table>", *CODE, *RUNS]


@pytest.fixture(scope="module")
def proto():
    return train(NAMES)


@pytest.fixture(scope="module")
def content(proto):
    return json_of_model(parse_model(proto))


@pytest.fixture
def path(tmp_path, content):
    return put(tmp_path / "tokenizer.json", content)


def put(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def texts(count, seed=0):
    """Words of the corpus, control names, runs of blanks and letters of all scripts, in a row."""
    rng = random.Random(seed)
    words = [word for line in CORPUS for word in line.split()]
    odd = [*NAMES, "▁", "é", "東京", "😀", "\x00", "\t", "\r\n", "<0x41>", "aaaa", "12345", "   "]
    for _ in range(count):
        row = [rng.choice(words if rng.random() < 0.6 else odd) for _ in range(rng.randint(0, 9))]
        row += [chr(rng.choice([rng.randrange(32, 0x500), rng.randrange(0x4E00, 0x9FFF)]))]
        rng.shuffle(row)
        yield rng.choice(["", " ", "  "]).join(row)


def fast(path):
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(path))


def ids_of(tokenizer):
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def sentence_pieces(proto):
    return sentencepiece.SentencePieceProcessor(model_proto=proto).encode


def test_the_fast_tokenizer_made_of_a_model_cuts_as_sentencepiece_does(path, proto):
    theirs, ours = ids_of(fast(path)), sentence_pieces(proto)
    for text in texts(2000):
        assert theirs(text) == ours(text), repr(text)


def test_the_fast_tokenizer_puts_bos_first_and_gives_the_text_back(path, proto):
    tokenizer = fast(path)
    for text in texts(300):
        ids = tokenizer.encode(text).ids
        assert ids == [2, *sentence_pieces(proto)(text)]
        assert tokenizer.decode(ids[1:], skip_special_tokens=False) == text.replace("▁", " ")


def test_there_and_back_gives_the_same_model(path, proto):
    given, got = parse_model(proto), parse_model(proto_of_json(path))
    assert (got.pieces, got.ids, got.names) == (given.pieces, given.ids, given.names)
    assert got.types.tolist() == given.types.tolist()
    ours, theirs = sentence_pieces(proto_of_json(path)), sentence_pieces(proto)
    for text in texts(500):
        assert ours(text) == theirs(text), repr(text)


def test_a_file_that_transformers_made_of_a_model_gives_that_models_ids(tmp_path, proto):
    """Its conversion lists pairs in another order, and with those of tokens found beforehand.

    Where a text holds the mark of spaces itself, it looks for runs of marks before spaces become
    such, and SentencePiece after.
    """
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "tokenizer.model").write_bytes(proto)
    theirs = transformers.GemmaTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = sentence_pieces(proto_of_json(tmp_path / "theirs" / "tokenizer.json"))
    for text in (text for text in texts(1000) if "▁" not in text):
        assert ours(text) == theirs(text, add_special_tokens=False)["input_ids"], repr(text)


def test_a_tokenizer_of_tokenizer_json_alone_works(tmp_path, path, proto):
    (tmp_path / "config.json").write_text('{"model_type": "gemma"}')
    ours, alone = GemmaTokenizer(proto), GemmaTokenizer.from_preset(tmp_path)
    assert alone.control_tokens == ours.control_tokens
    assert alone.start_of_turn_token_id == ours.start_of_turn_token_id
    for text in texts(200):
        ids = alone.encode(text)
        assert ids == ours.encode(text)
        assert alone.detokenize(ids) == text


def test_pairs_written_as_lists_are_read_as_those_written_as_texts(tmp_path, content, path):
    model = content["model"]
    listed = {**model, "merges": [pair.split(" ") for pair in model["merges"]]}
    other = put(tmp_path / "other.json", {**content, "model": listed})
    assert proto_of_json(other) == proto_of_json(path)


def test_a_tab_in_the_place_of_its_byte_is_that_byte(tmp_path, content, proto):
    """So do early conversions of Gemma's vocabulary, which has no piece for a tab."""
    vocab = dict(content["model"]["vocab"])
    vocab["\t"] = vocab.pop("<0x09>")
    path = put(tmp_path / "t.json", {**content, "model": {**content["model"], "vocab": vocab}})
    ours = sentence_pieces(proto_of_json(path))
    for text in ["\t", "a\tb", "\t\t\t"]:
        assert ours(text) == sentence_pieces(proto)(text)


def test_a_token_that_no_pair_makes_never_comes_out_of_a_text(tmp_path, content, proto):
    model = content["model"]
    vocab = {**model["vocab"], "th": len(model["vocab"])} if "th" not in model["vocab"] else None
    vocab = vocab or {**model["vocab"], "Onceupon": len(model["vocab"])}
    path = put(tmp_path / "t.json", {**content, "model": {**model, "vocab": vocab}})
    ours, theirs = sentence_pieces(proto_of_json(path)), ids_of(fast(path))
    for text in [*texts(300), "Onceupon", "the thin thing"]:
        assert ours(text) == theirs(text)


def changed(content, **changes):
    """The content with fields of its model set anew; None takes one away."""
    model = {**content["model"], **changes}
    return {**content, "model": {k: v for k, v in model.items() if v is not None}}


def two_ids(content):
    token = {**content["added_tokens"][0], "id": 5}
    return {**content, "added_tokens": [*content["added_tokens"], token]}


def stripped(content):
    first, *more = content["added_tokens"]
    return {**content, "added_tokens": [{**first, "lstrip": True}, *more]}


def without(content, piece):
    vocab = {p: i for p, i in content["model"]["vocab"].items() if p != piece}
    return changed(content, vocab=vocab)


def apart(content):
    """The first two pairs of a piece with a strange pair between."""
    merges = list(content["model"]["merges"])
    made = ["".join(pair.split(" ")) for pair in merges]
    at = next(i for i in range(1, len(made)) if made[i] == made[i - 1])
    merges.append(merges.pop(at))
    return changed(content, merges=merges)


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda c: [c], "must be an object"),
        (lambda c: {}, "'model' an object"),
        (lambda c: {**c, "normalizer": None}, "normalizer=None must replace spaces"),
        (
            lambda c: {**c, "normalizer": {"type": "Sequence", "normalizers": []}},
            "must replace spaces",
        ),
        (lambda c: {**c, "normalizer": {"type": "NFKC"}}, "normalizer={'type': 'NFKC'}"),
        (lambda c: {**c, "pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer=.*ByteLevel"),
        (lambda c: changed(c, type="Unigram"), "model.type='Unigram' must be 'BPE'"),
        (lambda c: changed(c, dropout=0.1), "model.dropout=0.1"),
        (lambda c: changed(c, ignore_merges=True), "model.ignore_merges=True"),
        (lambda c: changed(c, end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda c: changed(c, vocab=[]), "model.vocab"),
        (lambda c: changed(c, merges={}), "model.merges"),
        (lambda c: changed(c, unk_token=None), "unk_token=None"),
        (lambda c: changed(c, unk_token="<oov>"), "unk_token='<oov>'"),
        (lambda c: changed(c, merges=["a b c"]), "'a', 'b', 'c'\\], which is no pair"),
        (lambda c: changed(c, merges=[["a", 3]]), "no pair"),
        (lambda c: changed(c, merges=[7]), "no pair"),
        (lambda c: changed(c, merges=c["model"]["merges"][::2]), "pairs in the list and by"),
        (lambda c: changed(c, vocab={**c["model"]["vocab"], "new": -1}), "none has the id"),
        (lambda c: changed(c, vocab={**c["model"]["vocab"], "new": 2**40}), "none has the id"),
        (lambda c: changed(c, vocab={**c["model"]["vocab"], "new": "3"}), "'new' has the id '3'"),
        (
            lambda c: changed(c, vocab={**c["model"]["vocab"], "new": 9}),
            "have the same id 9",
        ),
        (
            lambda c: changed(c, vocab={**c["model"]["vocab"], "": len(c["model"]["vocab"])}),
            "is empty",
        ),
        (lambda c: without(c, "<0x41>"), "none has the id"),
        (lambda c: {**c, "added_tokens": None}, "added_tokens must be a list"),
        (lambda c: {**c, "added_tokens": [3]}, "added_tokens hold 3"),
        (lambda c: {**c, "added_tokens": [{"id": 0}]}, "which has no content"),
        (lambda c: {**c, "added_tokens": [{"content": "x", "id": None}]}, "which has no id"),
        (two_ids, "two ids"),
        (stripped, "lstrip=true"),
        (apart, "are apart in the list"),
    ],
)
def test_what_sentencepiece_can_not_do_is_refused_by_its_name(tmp_path, content, change, match):
    path = put(tmp_path / "tokenizer.json", change(content))
    with pytest.raises(BadPresetError, match=match) as caught:
        proto_of_json(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\xfe", b"[" * 10**5, b'{"model":' * 10**4, b"[]," * 2**20, b"0," * 2**23],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, raw):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(raw)
    with within_a_second(), pytest.raises(BadPresetError, match="tokenizer.json"):
        proto_of_json(path)


def test_a_lone_surrogate_is_refused(tmp_path, content):
    vocab = {**content["model"]["vocab"], "\ud800": len(content["model"]["vocab"])}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed(content, vocab=vocab)))
    with pytest.raises(BadPresetError, match="tokenizer.json"):
        proto_of_json(path)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": UNIGRAM},
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"escape_whitespaces": False},
        {"charsmap": b"\0" * 8},
    ],
)
def test_a_vocabulary_of_another_kind_gets_no_tokenizer_json(proto, options):
    assert json_of_model(parse_model(proto)._replace(**options)) is None


def test_a_written_model_is_one_that_sentencepiece_loads(proto):
    model = parse_model(proto)
    assert sentence_pieces(serialize_model(model))("a fox") == sentence_pieces(proto)("a fox")


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused(tmp_path, count):
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "ab", "<x>"]
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "vocab": {piece: index for index, piece in enumerate(pieces)},
        "merges": ["a b"],
    }
    added = [{"id": index, "content": pieces[index], "special": True} for index in (0, 1, 2, 3, 7)]
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    good = {"added_tokens": added, "normalizer": normalizer, "model": model}
    text, rng = json.dumps(good, ensure_ascii=False).encode(), random.Random(count)
    path, outcomes = tmp_path / "tokenizer.json", set()
    for _ in range(count):
        raw = bytearray(text)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(raw))
            match rng.randrange(3):
                case 0:
                    raw[at] = rng.choice(b'"{}[],:0123 abx<>')
                case 1:
                    del raw[at : at + rng.randint(1, 6)]
                case 2:
                    raw[at:at] = rng.choice([b'"', b"0", b"null", b"[]", b"{", b"-", b"\\u0000"])
        path.write_bytes(raw)
        try:
            GemmaTokenizer(proto_of_json(path))
            outcomes.add("read")
        except BadPresetError:
            outcomes.add("refused")
        except ValueError as error:  # GemmaTokenizer: a vocabulary without <bos>
            assert "SentencePiece model" in str(error) or "has no" in str(error)
    assert outcomes == {"read", "refused"}
