"""A conversation that keeps its turns."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_gemma.generation import StopStrings, text_pieces
from keras_gemma.text import Message, encode_turns


class Chat:
    """A conversation with an instruction-tuned model.

        model = GemmaCausalLM.from_preset("gemma_instruct_tiny_en")
        chat = Chat(model)
        chat.send("Spell the word apple.")
        for piece in chat.stream("And pear?"):
            print(piece, end="", flush=True)

    Each question is put to the model with all that was said before. Nothing typed in it can end
    a turn or start one. A question that fails (it is too long, say) leaves the conversation as it
    was; an answer that is interrupted is kept as far as it was said.

    Args:
        model: a `GemmaCausalLM` with a preprocessor.
        system: instructions that hold for the whole conversation; they are put before the first
            text of the user, since Gemma has no turn for them.
    """

    def __init__(self, model: Any, system: str | None = None):
        if model.preprocessor is None:
            raise ValueError(
                "This model has no preprocessor, so it can't read text. Load it by from_preset, "
                "or give it a GemmaCausalLMPreprocessor."
            )
        self.model = model
        self.system = system
        self._turns: list[Message] = []
        self._speaking = None  # a weak reference to the answer being made

    @property
    def messages(self) -> list[Message]:
        """All that was said, the system text first; assign a list to go on with another one."""
        return [*self._head(), *(turn.copy() for turn in self._turns)]

    @messages.setter
    def messages(self, messages: Sequence[Mapping[str, str]]):
        if messages:
            encode_turns(self._tokenizer, messages)  # tells what is wrong, if something is
        turns: list[Message] = [
            {"role": message["role"], "content": message["content"]} for message in messages
        ]
        system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else None
        if len(turns) % 2:
            raise ValueError(
                "The conversation must end with a turn of the model; pass the user's last text "
                "to send."
            )
        self._interrupt()
        self.system, self._turns = system, turns

    def send(self, text: str, **keywords: Any) -> str:
        """The model's answer to `text`; keywords are those of `GemmaCausalLM.generate`.

        Raises:
            ValueError: the conversation has no room left within the model's context.
        """
        return "".join(self.stream(text, **keywords))

    def stream(
        self, text: str, *, stop: str | Sequence[str] = (), **keywords: Any
    ) -> Iterator[str]:
        """`send`, piece by piece as the answer is made. Close the iterator to cut it short."""
        self._interrupt()
        turns: list[Message] = [*self._turns, {"role": "user", "content": text}]
        stops = StopStrings(stop)
        ids = self._encode(turns)
        limit = keywords.pop("max_length", None) or self.model.preprocessor.sequence_length
        if len(ids) >= limit:
            raise ValueError(
                f"The conversation takes {len(ids)} tokens with this question, and the context "
                f"holds {limit}, the answer included. Ask in fewer words, take turns back with "
                "undo(), or start anew with reset()."
            )
        tokens = self.model.stream_ids(ids, max_length=limit, **keywords)
        answer = self._answer(turns, text_pieces(self._tokenizer, tokens, stops))
        self._speaking = weakref.ref(answer)
        return answer

    def undo(self) -> str | None:
        """Take the last question and its answer back; returns the question, if there was one."""
        self._interrupt()
        if not self._turns:
            return None
        question = self._turns[-2]["content"]
        del self._turns[-2:]
        return question

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self._interrupt()
        self._turns = []

    def context_left(self) -> int:
        """Tokens that the next question and its answer may take together."""
        # A question of no tokens costs what its turn and the opening of the model's take.
        used = len(self._encode([*self._turns, {"role": "user", "content": ""}]))
        return max(0, self.model.preprocessor.sequence_length - used)

    @property
    def _tokenizer(self):
        return self.model.preprocessor.tokenizer

    def _encode(self, turns):
        messages = [*self._head(), *turns]
        return encode_turns(self._tokenizer, messages, add_generation_prompt=True)[0]

    def _head(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _answer(self, turns, pieces):
        """Yield the pieces; keep the turn when it ends, or when it is cut short by a person."""
        said: list[str] = []
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        except (GeneratorExit, KeyboardInterrupt):
            if said:
                self._keep(turns, said)
            raise
        self._keep(turns, said)

    def _keep(self, turns, said):
        self._turns = [*turns, {"role": "model", "content": "".join(said)}]

    def _interrupt(self):
        """One answer at a time: one that somebody still holds ends where it is."""
        answer = self._speaking() if self._speaking is not None else None
        if answer is not None:
            answer.close()
