"""A model that knows nothing, kept to a constraint: any allowed token, with a pull to the end."""

import numpy as np

# What brings a text nearer to its end: a quotation mark, where it may come, ends the text it is in;
# any of the others may also be a letter of such a text, so that none of them goes before the rest.
MARK = b'"'
CLOSERS = (b"}", b"]", b")", b",", b":", b".", b"@", b"0", b"1")


def ids_of(words):
    """The ids of a mask."""
    assert words.dtype == np.int32
    return np.flatnonzero(np.unpackbits(words.view("uint8"), bitorder="little"))


def is_allowed(words, index):
    return bool(words[index // 32] >> (index % 32) & 1)


def walk(matcher, tokenizer, random, pull=0.3, patience=150, limit=5000):
    """The ids of a text, without the one that ends it.

    Args:
        pull: how often the end, or a token that closes something, is preferred where allowed;
            after `patience` tokens, always.
        limit: tokens after which a text is taken for endless.
    """
    ends = [tokenizer.end_token_id, tokenizer.end_of_turn_token_id]
    of_model = matcher.vocabulary.ids_of_model
    mark, closers = of_model(MARK), [i for closer in CLOSERS for i in of_model(closer)]
    ids = []
    while not matcher.finished:
        words = matcher.allowed()
        chosen = int(random.choice(ids_of(words)))
        if len(ids) > patience or random.random() < pull:
            near = ([i for i in each if is_allowed(words, i)] for each in (ends, mark, closers))
            chosen = next((int(random.choice(each)) for each in near if each), chosen)
        matcher.accept(chosen)
        if chosen not in ends:
            ids.append(chosen)
        assert len(ids) < limit, tokenizer.detokenize(ids[-200:])
    return ids
