"""The vocabularies that constraints are tried with."""

import io

import pytest
import sentencepiece
from vocabularies import CORPUS, real

from keras_gemma.text import GemmaTokenizer


@pytest.fixture(scope="session")
def tiny():
    """That of the bundled models: bytes, turns, a few thousand pieces."""
    return GemmaTokenizer.from_preset("gemma_instruct_tiny_en")


@pytest.fixture(scope="session")
def gemma():
    return GemmaTokenizer(real("gemma"))


@pytest.fixture(scope="session")
def gemma3():
    return GemmaTokenizer(real("gemma3"))


@pytest.fixture(params=["tiny", "gemma", "gemma3"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def without_bytes():
    """One that can't spell what its corpus does not hold, and puts a space before each text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=120,
        model_type="bpe",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return GemmaTokenizer(model.getvalue())
