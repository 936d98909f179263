"""Many people's texts, made together in one batch that they enter and leave as they please."""

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from keras_gemma.generation import Engine, SlotBatch, StopStrings, Ticket, end_ids, weights_for
from keras_gemma.models.generation_requests import requests_for, tokenizer_of
from keras_gemma.samplers import Sampler, settings_of
from keras_gemma.text import StreamDecoder


class ContinuousBatcher:
    """Answers to prompts that come at any time, a batch of fixed shape at work on all of them.

        batcher = ContinuousBatcher(model, slots=16)
        answers = [batcher.submit(prompt, max_new_tokens=40) for prompt in prompts]
        batcher.run()
        [answer.text for answer in answers]

    Under asyncio each answer is a stream of its own, and the event loop stays free:

        async for piece in batcher.submit("Once upon a time"): ...

    Every text is the one that `generate` makes of its prompt, seed and sampler alone. What each
    may choose of its own are numbers of the sampler (`temperature=0.7`, `top_p=0.9`, …).

    Args:
        model: a `GemmaCausalLM` with a preprocessor.
        slots: texts that are made at once; more wait in line.
        max_length: longest text in tokens, prompt included; the preprocessor's `sequence_length`
            if left out.
        log_probs: record what the model thought of each token, as in `generate`.

    Raises:
        ValueError: the model's sampler can't share a program with others (one of a class of one's
            own, say).
    """

    def __init__(
        self,
        model: Any,
        slots: int = 8,
        max_length: int | None = None,
        log_probs: int | None = None,
    ):
        tokenizer_of(model, "A batch of texts")
        self.model = model
        self.max_length = max_length or model.preprocessor.sequence_length
        self._settings = settings_of(model.sampler)
        weights = weights_for(model.backbone.stack, model.backbone.variables, model.plan == "auto")
        engine = Engine(
            weights,
            Sampler(),
            model.backbone.config,
            model.compute_dtype,
            model.run_eagerly,
            cache=model.cache,
            prefix_bytes=model.prefix_cache_bytes(),
        )
        self._batch = SlotBatch(engine, slots, self.max_length, self._settings, log_probs)
        self._answers: dict[Ticket, Answer] = {}
        self._to_cancel: collections.deque[Ticket] = collections.deque()
        self._lock = threading.Lock()  # one round at a time
        self._driver: Any = None

    def submit(
        self,
        prompt: str,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        stop_token_ids: Any = "auto",
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        constraint: Any = None,
        **settings: float,
    ) -> "Answer":
        """Put a prompt in line. Keywords are those of `generate`, and numbers of the sampler.

        Raises:
            ValueError: the prompt or the answer doesn't fit the batch's `max_length`, or the
                sampler has no such number.
        """
        stops = StopStrings(stop)
        if max_length is None:
            max_length = self.max_length if max_new_tokens is None else None
        ids = self.model._encode(prompt)
        [request] = requests_for(
            self.model, [ids], max_length, max_new_tokens, stop_token_ids, seed, constraint
        )
        # A number is checked as the sampler itself checks it.
        checked = settings_of(Sampler(**settings)) if settings else {}
        own = {name: checked[name] for name in settings}
        ticket = self._batch.submit(request._replace(settings=own))
        answer = Answer(self, ticket, stops)
        self._answers[ticket] = answer
        return answer

    @property
    def is_busy(self) -> bool:
        """Whether anybody is waiting for anything."""
        return bool(self._answers)

    def step(self, tokens: int = 1) -> None:
        """One round: a chunk of one waiting prompt, and `tokens` for each text under way."""
        with self._lock:
            while self._to_cancel:
                self._batch.cancel(self._to_cancel.popleft())
            self._batch.step(tokens)
            for ticket, answer in list(self._answers.items()):
                if answer._take():
                    self._batch.cancel(ticket)
                if ticket.finish_reason is not None:
                    del self._answers[ticket]
                    answer._finish()

    def run(self, tokens: int = 8) -> None:
        """Work until nobody waits any more."""
        while self.is_busy:
            self.step(tokens)

    def cancel(self, answer: "Answer") -> None:
        """End an answer where it is; its place is free for the next round."""
        self._to_cancel.append(answer._ticket)
        if self._lock.acquire(blocking=False):  # else the round under way is the last one for it
            try:
                self._batch.cancel(answer._ticket)
            finally:
                self._lock.release()

    async def _drive(self):
        """Rounds in a thread, for as long as anybody waits: one task for all who do."""
        while self.is_busy:
            waiting = list(self._answers.values())
            await asyncio.to_thread(self.step)
            for answer in waiting:
                answer._wake()

    def _driving(self):
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
        return self._driver


class Answer:
    """A text on its way. Iterate over its pieces, plainly or with `async for`; or wait for all."""

    def __init__(self, batcher: ContinuousBatcher, ticket: Ticket, stops: StopStrings):
        self._batcher, self._ticket, self._stops = batcher, ticket, stops
        tokenizer = batcher.model.preprocessor.tokenizer
        self._decoder, self._silent = StreamDecoder(tokenizer), end_ids(tokenizer)
        self._pieces: list[str] = []
        self._taken, self._is_whole = 0, False
        self._woken: asyncio.Event | None = None

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._pieces)

    @property
    def finish_reason(self) -> str | None:
        """`"stop"` (by itself, or at a stop string), `"length"`, `"cancelled"`, or `None` yet."""
        if not self._is_whole:
            return None
        return "stop" if self._stops.found else self._ticket.finish_reason

    @property
    def token_ids(self) -> list[int]:
        """The ids that were made so far."""
        return list(self._ticket.ids)

    @property
    def log_probs(self) -> list:
        """What the model thought of each of them, where the batcher records it."""
        return list(self._ticket.log_probs)

    def cancel(self) -> None:
        """End it where it is; what was said so far stays."""
        self._batcher.cancel(self)

    def result(self) -> str:
        """The whole text; the batch works until it is there."""
        while self.finish_reason is None:
            self._batcher.step()
        return self.text

    def __iter__(self) -> Iterator[str]:
        given = 0
        while True:
            yield from self._pieces[given:]
            given = len(self._pieces)
            if self.finish_reason is not None:
                return
            self._batcher.step()

    async def __aiter__(self) -> AsyncIterator[str]:
        self._woken = self._woken or asyncio.Event()
        given = 0
        while True:
            for piece in self._pieces[given:]:
                yield piece
                given += 1
            if self.finish_reason is not None and given == len(self._pieces):
                return
            driver = self._batcher._driving()
            waiting = asyncio.ensure_future(self._woken.wait())
            await asyncio.wait({driver, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            self._woken.clear()
            if driver.done() and driver.exception() is not None:
                raise driver.exception()

    def __await__(self):
        async def whole():
            async for _ in self:
                pass
            return self.text

        return whole().__await__()

    def _take(self):
        """Add what came to the text; whether a stop string has ended it."""
        for token in self._ticket.ids[self._taken :]:
            self._taken += 1
            if token in self._silent or self._stops.found:
                continue
            if piece := self._stops.push(self._decoder.push(token)):
                self._pieces.append(piece)
        return self._stops.found

    def _finish(self):
        if piece := self._stops.push(self._decoder.finish()) + self._stops.finish():
            self._pieces.append(piece)
        self._is_whole = True

    def _wake(self):
        if self._woken is not None:
            self._woken.set()
