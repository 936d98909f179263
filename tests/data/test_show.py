"""What is shown is what is trained on."""

import io
import re
from types import SimpleNamespace

import pytest

from keras_gemma import GemmaCausalLMPreprocessor, data
from keras_gemma.data.prepared_rows import PreparedRows
from keras_gemma.data.show import runs_of

pytestmark = pytest.mark.once

TALK = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "the fox?"},
        {"role": "model", "content": "a dog", "weight": 0},
        {"role": "user", "content": "and?"},
        {"role": "model", "content": "it jumped", "weight": 0.5},
    ]
}
SHOWN = """<bos><start_of_turn>user
Be kind.

the fox?<end_of_turn>
<start_of_turn>model
a dog<end_of_turn>
<start_of_turn>user
and?<end_of_turn>
<start_of_turn>model
⟦0.5× it jumped<end_of_turn>⟧"""
LONG = "a long text that goes on and on and on and on and on and on and on"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(texts, preprocessor, kind=io.StringIO, **options):
    file = kind()
    data.show(texts, preprocessor, file=file, **options)
    return file.getvalue()


def test_turns_segments_and_what_is_trained_on_are_seen(tokenizer):
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 256, pack=True)
    summary, title, row = shown([TALK, TALK], preprocessor).split("\n", 2)
    assert re.fullmatch(
        r"2 documents in 1 row of 256 tokens, [\d.]+% filled; the loss counts \d+ of \d+ tokens.",
        summary,
    )
    assert re.fullmatch(r"--- row 0: 2 documents, \d+ of 256 tokens", title)
    assert row == f"│1 {SHOWN}\n│2 {SHOWN}\n"


def test_trained_runs_spell_what_the_loss_counts(tokenizer):
    rows = [{"prompts": "the fox ", "responses": f"jumped {n}"} for n in range(3)]
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 64, pack=True)
    prepared = PreparedRows(rows, preprocessor)
    runs = list(runs_of(prepared, 0, tokenizer))
    trained = [run.text for run in runs if run.weight]
    assert "".join(trained) == "jumped 0<eos>jumped 1<eos>jumped 2<eos>"
    assert sum(run.tokens for run in runs if run.weight) == prepared.report.labels
    assert {run.segment for run in runs} == {1, 2, 3}


def test_what_is_cut_dropped_or_wrong_is_said_with_its_reason(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a fox"}}\n{{\n{{"text": "{LONG}"}}\n')
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 24, too_long="drop")
    text = shown(data.read(path, skip_bad=True), preprocessor)
    assert "1 of 3 documents were wrong and were skipped." in text
    assert "a.jsonl:2: not JSON" in text
    assert "1 of 3 documents were longer than a row and were dropped (" in text
    assert re.search(r"document 1: \d+ tokens, dropped, over 25", text)
    preprocessor.too_long = "cut"
    assert re.search(r"document 1: \d+ tokens, cut to 25", shown(["a", LONG], preprocessor))
    # Where nothing is left, `fit` refuses; to show why is what this is for.
    preprocessor.too_long = "drop"
    assert "0 rows" in shown([LONG], preprocessor)


def test_colours_go_to_terminals_only_and_texts_cannot_steer_them(tokenizer, monkeypatch):
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 64)
    rows = {"prompts": ["[red]a \x1b[31m"], "responses": ["fox\r"]}
    plain = shown(rows, preprocessor)
    assert "\x1b" not in plain and "[red]a \\x1b[31m⟦fox\\x0d<eos>⟧" in plain
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    coloured = shown(rows, preprocessor, Terminal)
    assert "\x1b[1;32m⟦" in coloured and "\x1b[31m" not in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()[2:] == plain.splitlines()[2:]


def test_conversations_of_other_dialects_are_shown_as_they_are_trained_on(tokenizer):
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    messages = [{"role": "developer", "content": parts}, *TALK["messages"][1:]]
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 256, pack=True)
    assert shown([messages, messages], preprocessor) == shown([TALK, TALK], preprocessor)


def test_without_a_preprocessor_and_of_streams_nothing_is_shown_and_why_is_said(tokenizer):
    with pytest.raises(ValueError, match="this model has none"):
        shown(["a fox"], SimpleNamespace(preprocessor=None))
    with pytest.raises(TypeError, match="not generator, .* give a list of them"):
        shown((text for text in ["a fox"]), GemmaCausalLMPreprocessor(tokenizer, 24))


def test_of_many_documents_the_first_are_taken(tokenizer):
    text = shown(["a fox"] * 1001, GemmaCausalLMPreprocessor(tokenizer, 24), rows=2)
    assert text.startswith("The first 1,000 of 1,001 documents:\n1,000 documents in 1,000 rows")
    assert text.count("--- row") == 2
