"""The verbs on a real model: small, of random weights, in a preset folder."""

import io
import json
import shutil

import pytest
import sentencepiece
from click.testing import CliRunner

from keras_gemma.cli.main import verbs

SPECIAL = ("pad", "eos", "bos", "unk")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    import keras

    from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor, GemmaTokenizer

    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["once upon a time there was a fox, user and model"] * 9),
        model_writer=proto,
        model_type="bpe",
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n"],
        num_threads=1,
        minloglevel=2,
        **{f"{name}_id": place for place, name in enumerate(SPECIAL)},
        **{f"{name}_piece": f"<{name}>" for name in SPECIAL},
    )
    keras.utils.set_random_seed(0)
    tokenizer = GemmaTokenizer(proto.getvalue())
    backbone = GemmaBackbone(tokenizer.vocabulary_size(), 1, 2, 1, 16, 64, 8)
    model = GemmaCausalLM(backbone, GemmaCausalLMPreprocessor(tokenizer, sequence_length=48))
    folder = tmp_path_factory.mktemp("presets") / "small"
    model.save_to_preset(folder)
    return folder


def run(*args, **keywords):
    result = CliRunner().invoke(verbs, list(map(str, args)), **keywords)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_generate_prints_what_the_model_generates(preset):
    import keras_gemma

    prompt, options = "once upon", ("--max-new-tokens", 6, "--preset", preset)
    model = keras_gemma.GemmaCausalLM.from_preset(preset)
    assert run("generate", prompt, *options) == model.generate(prompt, max_new_tokens=6) + "\n"


@pytest.mark.once
def test_a_seed_repeats_what_is_random_and_the_code_shown_runs(preset, capsys):
    verb = ("generate", "once", "--preset", preset, "--max-new-tokens", 9, "--temperature", 5)
    text = run(*verb, "--seed", 1)
    exec(compile(run(*verb, "--seed", 1, "--show-code"), "shown", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == text
    assert run(*verb, "--seed", 2) != text


def test_chat_answers_a_message_as_chat_does(preset):
    import keras_gemma

    chat = keras_gemma.Chat(keras_gemma.GemmaCausalLM.from_preset(preset))
    chat.send("a fox?", max_new_tokens=5)
    messages = json.loads(run("chat", preset, "a fox?", "--max-new-tokens", 5, "--json"))
    assert messages == {"messages": chat.messages}


def test_a_prompt_that_is_too_long_and_a_broken_preset_are_told(preset, tmp_path):
    result = CliRunner().invoke(verbs, ["chat", str(preset), "x " * 60])
    assert (result.exit_code, "holds 48" in result.stderr) == (1, True)
    for name in ("model.weights.h5", "assets/tokenizer/vocabulary.spm"):
        broken = shutil.copytree(preset, tmp_path / name)
        (broken / name).write_bytes((broken / name).read_bytes()[:100])
        result = CliRunner().invoke(verbs, ["generate", "x", "--preset", str(broken)])
        assert (result.exit_code, name in result.stderr) == (4, True)
