"""Small vocabularies trained on the spot, and Gemma's own.

The test files of this folder import its fixtures by name.
"""

import io

import pytest
import real_vocabularies
import sentencepiece

from keras_gemma.text import GemmaTokenizer

TURNS = ["<start_of_turn>", "<end_of_turn>"]
CODE = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"]
RUNS = ["\n", "\n\n", "▁▁", "▁▁▁", "\t\t"]
CORPUS = [
    "Once upon a time there was a fox who lived in the forest. It was a cold and windy day.",
    "The quick brown fox jumped over the lazy dog, and 1234 other things happened.",
    "user said to the model: what is the capital of that country? The model answered the user.",
    "def add(a, b):",
    "    return a + b",
    "for i in range(10): print(add(i, 2))",
    "A heavy heart is made light by the truth, said her grandmother.",
]


def train(names, size=420, **options):
    """A SentencePiece model with Gemma's settings."""
    model = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "unk_piece": "<unk>",
        "user_defined_symbols": names,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        "num_threads": 1,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=size, **settings | options
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def proto():
    return train([*TURNS, "[@BOS@]", "<unused0>", "<table>", *RUNS])


@pytest.fixture(scope="session")
def tokenizer(proto):
    return GemmaTokenizer(proto)


@pytest.fixture(scope="session")
def code_tokenizer():
    return GemmaTokenizer(train([*TURNS, *CODE, *RUNS]))


def real(name):
    """The bytes of one of Gemma's own vocabularies; without a network the test is skipped."""
    try:
        return real_vocabularies.path_of(name).read_bytes()
    except real_vocabularies.NotHere as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_proto():
    return real("gemma")


@pytest.fixture(scope="session")
def real_tokenizer(real_proto):
    return GemmaTokenizer(real_proto)


@pytest.fixture(params=["tokenizer", "code_tokenizer", "real_tokenizer"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)
