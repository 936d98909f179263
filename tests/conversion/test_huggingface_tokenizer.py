# ruff: noqa: F401, F811 (fixtures are imported by name)
"""The tokenizer of a folder of Transformers: its ids, turns and stops are ours."""

import pytest
from cases import make
from huggingface_examples import (
    proto,
    quiet,
    source,
    transformers,
    written,
)

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma import GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.presets import BadPresetError
from keras_gemma.text import GemmaTokenizer, encode_turns

pytestmark = pytest.mark.once
TEXTS = [
    "Once upon a time there was a fox.",
    "  two  spaces,   three, and \n\n lines\t\t",
    "<start_of_turn>user\nhello<end_of_turn>\n",
    "ünïcödé 東京 😀 ▁ mark",
    "<|fim_prefix|>def add(a, b):<|fim_suffix|>\n<|fim_middle|>",
    "",
]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory, proto):
    """A folder with a tokenizer, and the model it was written of."""
    folder = tmp_path_factory.mktemp("chatty") / "model"
    model = make("grouped", vocabulary_size=512)
    huggingface.save(folder, source(model, proto))
    return folder


@pytest.mark.parametrize("without", ["", "tokenizer.json", "tokenizer.model"])
def test_the_fast_tokenizer_gives_our_ids(transformers, quiet, chatty, tmp_path, without):
    for path in chatty.iterdir():
        if path.name != without:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    ours = GemmaTokenizer.from_preset(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == [ours.start_token_id, *ours(text).tolist()], text
        assert theirs.decode(ids[1:], skip_special_tokens=False) == text.replace("▁", " ")
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(theirs, f"{name}_token_id") == ours.token_to_id(f"<{name}>")
    assert len(theirs) == ours.vocabulary_size()


def test_the_chat_template_gives_the_ids_of_our_turns(transformers, quiet, chatty):
    ours = GemmaTokenizer.from_preset(chatty)
    theirs = transformers.AutoTokenizer.from_pretrained(chatty)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who was there?"},
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": "Where?"},
    ]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ids == encode_turns(ours, messages, add_generation_prompt=True)[0]


def test_generation_stops_where_an_answer_ends(transformers, quiet, chatty, proto):
    ours = GemmaTokenizer(proto)
    config = transformers.GenerationConfig.from_pretrained(chatty)
    assert set(config.eos_token_id) == {ours.end_token_id, ours.end_of_turn_token_id}
    assert (config.bos_token_id, config.pad_token_id) == (ours.start_token_id, ours.pad_token_id)


def test_a_model_comes_with_its_tokenizer_and_generates(chatty, proto):
    model = GemmaCausalLM.from_preset(chatty)
    assert model.preprocessor.tokenizer.proto == proto
    assert isinstance(model.generate("Once upon", max_length=8), str)
    assert isinstance(GemmaCausalLMPreprocessor.from_preset(chatty).tokenizer, GemmaTokenizer)


def test_a_tokenizer_larger_than_the_table_is_told_with_both_sizes(written, tmp_path, proto):
    for path in written().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.model").write_bytes(proto)
    size = GemmaTokenizer(proto).vocabulary_size()
    with pytest.raises(BadPresetError, match=f"{size} pieces.*96 rows"):
        GemmaCausalLM.from_preset(tmp_path)


def test_a_token_that_was_renamed_later_is_known_by_its_new_name(chatty, tmp_path, proto):
    """As in models that were tuned on other turns than Gemma's: `tokenizer.model` is left as it was."""
    names = ("config.json", "tokenizer.model", "tokenizer_config.json", "tokenizer.json")
    for name in names:
        text = (chatty / name).read_bytes()
        changes = text if name == "tokenizer.model" else text.replace(b"<mask>", b"<|im_end|>")
        (tmp_path / name).write_bytes(changes)
    ours, old = GemmaTokenizer.from_preset(tmp_path), GemmaTokenizer(proto)
    assert ours("a<|im_end|>b").tolist() == old("a<mask>b").tolist()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadPresetError, match=r"'<\|im_end\|>' that tokenizer.model has not"):
        GemmaTokenizer.from_preset(tmp_path)


def test_a_folder_without_a_tokenizer_gives_a_model_without_one(written):
    assert GemmaCausalLM.from_preset(written()).preprocessor is None
