"""The text a recipe trains on: documents of its sources, as packed rows of ids.

A recipe names its sources with the share of the tokens each gets:

    "corpus": [{"source": "stories", "share": 0.5, "seed": 1}, {"source": "bible", "share": 0.5}]
"""

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from keras_gemma.data import bible, skills, stories, wordnet
from keras_gemma.text import GemmaTokenizer, encode_turns, pack
from keras_gemma.text.training_rows import split_long

# Part of the names of cached files; raise it when the rows of a recipe come out otherwise.
_VERSION = 2


class Rows(NamedTuple):
    """Packed rows, each array of shape (rows, row_length)."""

    token_ids: Any  # uint16
    segments: Any  # uint8: 0 padding, 1, 2, … the document
    weights: Any  # uint8: how much the loss counts, 0 for not at all


def _bible_documents(settings):
    training = [chapter.text for chapter in bible.chapters() if not chapter.held_out]
    return _again_and_again(training, settings["seed"])


def _wordnet_documents(settings):
    """Sentences joined to documents of thirty: alone they would be mostly `<bos>` and `<eos>`."""
    found = list(wordnet.sentences())
    order = np.random.default_rng(settings["seed"]).permutation(len(found)).tolist()
    groups = [order[start : start + 30] for start in range(0, len(order), 30)]
    documents = ["\n".join(found[place] for place in group) for group in groups]
    return _again_and_again(documents, settings["seed"])


def _again_and_again(documents, seed):
    """Every document once, then all again in another order, without end."""
    random = np.random.default_rng(seed)
    while True:
        for place in random.permutation(len(documents)):
            yield documents[place]


# Each gives documents without end: a text, or a conversation as a list of messages.
SOURCES: dict[str, Callable[[Mapping], Iterator[Any]]] = {
    "stories": lambda settings: stories.stories(sys.maxsize, settings["seed"]),
    "bible": _bible_documents,
    "wordnet": _wordnet_documents,
    "skills": lambda settings: skills.conversations(settings["seed"]),
}


def documents(recipe: Mapping[str, Any]) -> dict[str, Iterator[Any]]:
    """The documents of each source of a recipe, without end and always the same."""
    return {
        entry["source"]: SOURCES[entry["source"]]({"seed": recipe["seed"], **entry})
        for entry in recipe["corpus"]
    }


def tokenizer(recipe: Mapping[str, Any], cache: Path | None = None) -> GemmaTokenizer:
    """The tokenizer of a recipe: read from its file, or trained on a sample of the corpus.

    The sample has the shares of the corpus, or `"shares"` of its own: words that stories repeat
    should each be one piece, since a small model copies a piece with ease, and several hardly.
    """
    settings = recipe["tokenizer"]
    shares = settings.get("shares") or {
        entry["source"]: entry["share"] for entry in recipe["corpus"]
    }
    key = {"tokenizer": settings, "corpus": recipe["corpus"], "version": _VERSION}
    path = _cached(cache, key, ".spm")
    if not path.exists():
        texts = documents(recipe)
        sample = [
            line
            for source, share in shares.items()
            for line in _sample(texts[source], share * settings["characters"])
        ]
        _write(path, _train_tokenizer(sample, settings["vocabulary_size"]))
    return GemmaTokenizer(path)


def _sample(texts, characters):
    """Lines of text worth so many characters; of a conversation, what its turns hold."""
    while characters > 0:
        document = next(texts)
        if not isinstance(document, str):
            turns = [f"{message['role']}\n{message['content']}" for message in document]
            document = "\n".join(turns)
        characters -= len(document)
        yield from document.split("\n")


def _train_tokenizer(lines, size):
    """SentencePiece BPE with Gemma's settings and special tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n"],
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        max_sentence_length=100_000,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def rows(recipe: Mapping[str, Any], tokenizer: GemmaTokenizer, cache: Path | None = None) -> Rows:
    """The rows of a recipe, enough for its tokens; made once and then read from the disk.

    `"loss": "model"` counts the model's turns only, `"all"` every token. With `"emphasis": 5`, a
    word of the story lists (a name, an object, a colour) counts five times where a document
    mentions it again: few tokens, on which all of the keeping track has to be learned.
    """
    wanted = {key: recipe[key] for key in ("corpus", "row_length", "tokens", "seed", "loss")}
    wanted["emphasis"] = recipe.get("emphasis", 1)
    wanted["version"] = _VERSION
    wanted["tokenizer"] = hashlib.sha256(tokenizer.proto).hexdigest()
    paths = [_cached(cache, wanted, f".{name}.npy") for name in Rows._fields]
    if not all(path.exists() for path in paths):
        for path, array in zip(paths, _make_rows(recipe, tokenizer)):
            written = io.BytesIO()
            np.save(written, array)
            _write(path, written.getvalue())
    return Rows(*(np.load(path, mmap_mode="r") for path in paths))


def _make_rows(recipe, tokenizer):
    texts, length = documents(recipe), recipe["row_length"]
    ids, weights, words = [], [], _story_words(tokenizer)
    for entry in recipe["corpus"]:
        budget = entry["share"] * recipe["tokens"]
        while budget > 0:
            document, counts = _encoded(next(texts[entry["source"]]), tokenizer, recipe["loss"])
            if entry["source"] == "stories":
                counts = emphasized(document, counts, words, recipe.get("emphasis", 1))
            ids.append(document)
            weights.append(counts)
            budget -= len(document)
    order = np.random.default_rng(recipe["seed"]).permutation(len(ids)).tolist()
    ids, weights = [ids[place] for place in order], [weights[place] for place in order]
    ids, weights = split_long(ids, weights, length, [tokenizer.start_token_id])
    packed = pack(ids, length, weights)
    return (
        packed.token_ids.astype("uint16"),
        packed.segments.astype("uint8"),
        packed.weights.astype("uint8"),
    )


def _story_words(tokenizer):
    """`{id: word}` of the words of the story lists that are one piece, after a space or not."""
    table = stories.words()
    kinds = ("girl", "boy", "animal", "woman", "man", "object", "colour", "look")
    words = [word for kind in kinds for word in table[kind]]
    pieces = ((word, tokenizer.encode(before + word)) for word in words for before in ("", " "))
    return {ids[0]: word for word, ids in pieces if len(ids) == 1}


def emphasized(
    ids: list[int], counts: list[int], words: Mapping[int, str], factor: int
) -> list[int]:
    """`counts`, times `factor` where a word comes that the document has mentioned before.

    >>> emphasized([5, 8, 9, 8, 9], [1] * 5, words={8: "kite", 9: "Lena"}, factor=3)
    [1, 1, 1, 3, 3]
    """
    seen, result = set(), []
    for token, count in zip(ids, counts):
        word = words.get(token)
        result.append(count * factor if word in seen else count)
        if word is not None:
            seen.add(word)
    return result


def _encoded(document, tokenizer, loss):
    if isinstance(document, str):
        ids = [tokenizer.start_token_id, *tokenizer.encode(document), tokenizer.end_token_id]
        return ids, [int(loss == "all")] * len(ids)
    ids, spoken = encode_turns(tokenizer, document)
    return ids, spoken if loss == "model" else [1] * len(ids)


def _cached(cache, key, suffix):
    cache = cache or Path(os.environ.get("KERAS_GEMMA_HOME", "~/.cache/keras_gemma")).expanduser()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache / "corpus" / f"{digest}{suffix}"


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
