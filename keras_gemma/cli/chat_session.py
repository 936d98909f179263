"""A conversation in a terminal: what is typed, what is answered, and the commands between."""

import contextlib
import difflib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keras_gemma.cli.common import printable

COMMANDS = {
    "help": "this list",
    "undo": "take the last question and its answer back",
    "retry": "answer the last question again",
    "reset": "forget the conversation",
    "save": "FILE: write the conversation as JSON",
    "system": "TEXT: instructions for the whole conversation; it starts anew",
}
HINTS = (
    'A line that ends in \\ goes on; """ begins and ends a text of many lines; // is a / to start '
    "with. Ctrl-C stops an answer and keeps what was said; Ctrl-D leaves."
)


class Session:
    """Answers messages and commands of one person at a terminal.

    Args:
        chat: a `keras_gemma.Chat`.
        limits: keywords of each answer.
        note: prints a line for people that is not part of the conversation.
        status: gives a spinner that runs until the first word.
    """

    def __init__(self, chat: Any, limits: dict, note: Callable[[str], None], status: Callable):
        self.chat, self.limits, self.note, self.status = chat, limits, note, status

    def run(self, read_message: Callable[[], str]) -> None:
        """Read and answer until the person leaves."""
        while True:
            try:
                text = read_message()
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                self.note("\nCtrl-D leaves.")
                continue
            if not text.strip():
                continue
            try:
                self.answer(text)
            except (ValueError, TypeError, OSError) as error:
                click.secho(str(error), err=True, fg="red")

    def answer(self, text: str) -> None:
        """Do what a command says, or put a question to the model."""
        if text.startswith("/") and not text.startswith("//"):
            name, _, rest = text[1:].partition(" ")
            return self._command(name.strip(), rest.strip())
        self.say(text.removeprefix("/") if text.startswith("//") else text)

    def say(self, text: str) -> None:
        """Put a question and print the answer as it comes; Ctrl-C cuts it short."""
        began, said = time.perf_counter(), []
        try:
            with contextlib.closing(self.chat.stream(text, **self.limits)) as pieces:
                with self.status("thinking"):
                    first = next(pieces, "")
                said.append(first)
                click.echo(printable(first), nl=False)
                for piece in pieces:
                    said.append(piece)
                    click.echo(printable(piece), nl=False)
        except KeyboardInterrupt:
            click.echo(" …", nl=False)
        click.echo()
        self._figures("".join(said), time.perf_counter() - began)

    def _figures(self, answer, seconds):
        tokens = len(self.chat.model.preprocessor.tokenizer.encode(answer))
        context, left = self.chat.model.preprocessor.sequence_length, self.chat.context_left()
        self.note(f"{tokens} tokens, {tokens / seconds:.0f} a second; {left} of {context} left")
        if left < context / 5:
            self.note("The context is nearly full: /undo takes turns back, /reset starts anew.")

    def _command(self, name, rest):
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
            hint = f" Did you mean /{near[0]}?" if near else " /help lists them."
            return self.note(f"There is no command /{name}.{hint}")
        getattr(self, f"_{name}")(rest)

    def _help(self, rest):
        for name, meaning in COMMANDS.items():
            self.note(f"/{name:8}{meaning}")
        self.note(HINTS)

    def _undo(self, rest):
        question = self.chat.undo()
        self.note("Nothing was said yet." if question is None else f"Taken back: {question}")

    def _retry(self, rest):
        question = self.chat.undo()
        if question is None:
            return self.note("Nothing was said yet.")
        self.say(question)

    def _reset(self, rest):
        self.chat.reset()
        self.note("Forgotten.")

    def _save(self, rest):
        if not rest:
            return self.note("/save needs the name of a file.")
        path = Path(rest).expanduser()
        document = {"messages": self.chat.messages}
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
        self.note(f"Saved {len(self.chat.messages)} messages in {path}.")

    def _system(self, rest):
        if not rest:
            return self.note(f"System: {self.chat.system or 'none'}")
        self.chat.reset()
        self.chat.system = rest
        self.note("The conversation starts anew under these instructions.")
