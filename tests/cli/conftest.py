"""The command line without a model: a fake one says what a test wants to hear."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from keras_gemma.cli import chat, common, generate
from keras_gemma.cli.main import verbs


class FakeModel:
    """Streams pieces and remembers how it was called."""

    def __init__(self):
        self.pieces, self.prompts, self.keywords, self.sampler = ["One ", "two."], [], {}, None
        tokenizer = SimpleNamespace(encode=lambda text: text.split())
        self.preprocessor = SimpleNamespace(tokenizer=tokenizer, sequence_length=100)

    def compile(self, sampler):
        self.sampler = sampler

    def stream(self, prompt, **keywords):
        self.prompts.append(prompt)
        self.keywords = keywords
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


class FakeChat:
    """As `keras_gemma.Chat`, over a `FakeModel`."""

    def __init__(self, model, system=None):
        self.model, self.system, self.messages = model, system, []

    def stream(self, text, **keywords):
        said = []
        try:
            for piece in self.model.stream(text, **keywords):
                said.append(piece)
                yield piece
        finally:
            if said:
                self.messages += [
                    {"role": "user", "content": text},
                    {"role": "model", "content": "".join(said)},
                ]

    def send(self, text, **keywords):
        return "".join(self.stream(text, **keywords))

    def undo(self):
        if not self.messages:
            return None
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        return question

    def reset(self):
        self.messages = []

    def context_left(self):
        return 100 - 20 * len(self.messages)


@pytest.fixture
def model(monkeypatch):
    """A `FakeModel` in the place of every preset's."""
    fake = FakeModel()
    for place in (generate, chat):
        monkeypatch.setattr(place, "load_model", lambda settings, preset: fake)
    monkeypatch.setattr(common, "model_class", lambda preset: "GemmaCausalLM")
    monkeypatch.setattr(generate, "model_class", lambda preset: "GemmaCausalLM")
    monkeypatch.setattr(chat, "model_class", lambda preset: "GemmaCausalLM")
    monkeypatch.setattr(
        chat,
        "_chat",
        lambda settings, preset, sampling, system: FakeChat(fake, system),
    )
    monkeypatch.setattr("keras_gemma.cli.sampling.Sampling.build", lambda self: self)
    return fake


@pytest.fixture
def fake_chat():
    """The class of the chat that `model` is put into."""
    return FakeChat


@pytest.fixture
def run():
    """Run the command line in this process: `run("generate", "x").stdout`."""
    runner = CliRunner()
    return lambda *args, **keywords: runner.invoke(verbs, list(map(str, args)), **keywords)
