# ruff: noqa: F401, F811 (fixtures are imported by name)
"""Our Jinja template, rendered as Transformers does it, against our turns."""

import pytest
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from vocabularies import proto, tokenizer

from keras_gemma.conversion.huggingface.chat_template import CHAT_TEMPLATE
from keras_gemma.text import encode_turns

pytestmark = pytest.mark.once

USER, MODEL = {"role": "user", "content": "Who?"}, {"role": "model", "content": " A fox. \n"}
CONVERSATIONS = {
    "one": [USER],
    "three": [USER, MODEL, USER],
    "assistant": [USER, MODEL | {"role": "assistant"}, USER],
    "answered": [USER, MODEL],
    "system": [{"role": "system", "content": "Be brief."}, USER, MODEL, USER],
    "empty system": [{"role": "system", "content": ""}, USER],
    "lines": [{"role": "user", "content": "a\n\nb {{ x }} {% y %} 'q' \"r\"\n"}],
}


@pytest.fixture(scope="module")
def peer():
    words = Tokenizer(WordLevel({"<bos>": 0, "<unk>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>")


def rendered(peer, messages, prompt):
    return peer.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=prompt
    )


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_template_gives_our_turns(name, peer, tokenizer):
    messages = CONVERSATIONS[name]
    prompt = messages[-1]["role"] == "user"
    text = rendered(peer, messages, prompt)
    start, *turns = encode_turns(tokenizer, messages, prompt)[0]
    assert text.startswith("<bos>") and start == tokenizer.start_token_id
    assert text.removeprefix("<bos>") == tokenizer.detokenize(turns)
    # Read as one text, control tokens and all, they are the same ids.
    assert tokenizer.tokenize(text.removeprefix("<bos>")).tolist() == turns


@pytest.mark.parametrize(
    "messages",
    [[MODEL], [USER, USER], [USER, {"role": "system", "content": "x"}], [USER | {"role": "tool"}]],
)
def test_what_our_turns_refuse_the_template_refuses(messages, peer, tokenizer):
    with pytest.raises(ValueError):
        encode_turns(tokenizer, messages)
    with pytest.raises(TemplateError, match="User and model speak in turn"):
        rendered(peer, messages, False)
