"""Texts that are being made, as the host sees them."""

from typing import Any, NamedTuple

import numpy as np

from keras_gemma.generation.engine import MOST_UNREAD, Engine
from keras_gemma.generation.state import Request, allowed_rows, numpy, tensor
from keras_gemma.samplers import NO_TOKEN


class TokenLogProb(NamedTuple):
    """What the model thought of one token that was made, whatever the sampler made of it."""

    token_id: int
    log_prob: float  # nats
    top: list[tuple[int, float]]  # the likeliest tokens there, with theirs


def recorded_log_probs(state: Any, row: int, start: int, end: int) -> list[TokenLogProb]:
    """What was recorded of the tokens from `start` to before `end` of a row."""
    part = slice(start, end)
    ids = numpy(state.token_ids)[row, part].tolist()
    found, top_ids, top = (numpy(array)[row, part].tolist() for array in state.records)
    return [
        TokenLogProb(token, log_prob, list(zip(*best)))
        for token, log_prob, *best in zip(ids, found, top_ids, top)
    ]


def check_tokens(token_ids: np.ndarray, lengths: np.ndarray) -> None:
    """An error where the sampler could choose no token as the last one of a row."""
    if (np.take_along_axis(token_ids, lengths[:, None] - 1, axis=1) == NO_TOKEN).any():
        raise ValueError(
            "A step of the sampler made logits that nothing can be drawn from: NaN, plus infinity, "
            "or minus infinity throughout. Call sampler.check(vocabulary_size) to find which."
        )


class Run:
    """Requests, from their prompts to their ends.

    Args:
        engine: that does the work.
        requests: one row each.
        top: record the log-probability of each token, and of so many of the likeliest beside it.
        place: puts an array where it belongs, over devices say.
    """

    def __init__(
        self, engine: Engine, requests: list[Request], top: int | None = None, place=lambda x: x
    ):
        self.engine, self.requests = engine, requests
        self.state: Any = engine.start(requests, top, place)
        self._constrained = any(request.matcher is not None for request in requests)
        biased = any("logit_bias" in request.settings for request in requests)
        tells = engine.takes_told_tokens and top is None and not biased
        self._most_told = MOST_UNREAD - 1 if tells else 0
        self._unread = np.ones(len(requests), "int32")  # of each text, its newest token included
        self._seen = [len(request.prompt) for request in requests]
        self._look()

    @property
    def is_running(self) -> bool:
        return bool(self.running.any())

    def advance(self, steps: int) -> None:
        """Up to `steps` more tokens for each text that is running."""
        while steps > 0 and self.is_running:
            # What may come next is known only when what came is.
            now = 1 if self._constrained else steps
            if (self._unread > 1).any():
                self.state = self.engine.catch_up(self.state, self._unread)
                self._unread[:] = 1
            else:
                self.state = self.engine.advance(self.state, now)
            self._look()
            steps -= now

    def stop(self, rows: np.ndarray) -> None:
        """End the texts that `rows`, bool, names."""
        if rows.any():
            self.running = self.running & ~rows
            self.state = self.state._replace(running=tensor(self.running))

    def new_ids(self, row: int, start: int = 0) -> list[int]:
        """The ids that were made for a text, from the `start`-th on."""
        first = len(self.requests[row].prompt) + start
        return self.token_ids[row, first : self.lengths[row]].tolist()

    def log_probs(self, row: int) -> list[TokenLogProb]:
        """What the model thought of each of them."""
        start = len(self.requests[row].prompt)
        return recorded_log_probs(self.state, row, start, self.lengths[row])

    def close(self) -> None:
        """Nothing more will be made: what was read may serve another prompt."""
        if self.state is not None:
            self.engine.keep(self.state)
            self.state = None

    def _look(self):
        self.running = numpy(self.state.running)
        self.lengths = np.array(numpy(self.state.lengths))
        self.token_ids = np.array(numpy(self.state.token_ids))
        check_tokens(self.token_ids, self.lengths)
        if self._constrained:
            self._tell_matchers()

    def _tell_matchers(self):
        """Follow what came, and add what can only come."""
        done = np.zeros(len(self.requests), bool)
        for row, request in enumerate(self.requests):
            if request.matcher is None:
                continue
            for token in self.token_ids[row, self._seen[row] : self.lengths[row]].tolist():
                request.matcher.accept(token)
            if self.running[row]:
                self._tell(row, request)
            self._seen[row] = self.lengths[row]
            done[row] = request.matcher.finished
        if (self._unread > 1).any():
            self.state = self.state._replace(
                token_ids=tensor(self.token_ids),
                lengths=tensor(self.lengths),
            )
        self.stop(done & self.running)
        self._unread[~self.running] = 1
        if self.is_running:
            allowed = allowed_rows(self.requests, tensor)
            self.state = self.state._replace(allowed=allowed)

    def _tell(self, row, request):
        """Put behind a text the tokens of which each is the only one that may come next."""
        start = self.lengths[row]
        for place in range(start, min(start + self._most_told, request.limit - 1)):
            token = the_only(request.matcher)
            if token is None or token in request.stop_ids:
                break
            request.matcher.accept(token)
            self.token_ids[row, place] = token
            self.lengths[row] += 1
        self._unread[row] += self.lengths[row] - start


def the_only(matcher: Any) -> int | None:
    """The token that alone may come next, if just one may."""
    if matcher.finished:
        return None
    words = matcher.allowed()
    places = np.flatnonzero(words)
    word = int(words[places[0]]) & 0xFFFFFFFF
    if len(places) > 1 or word & (word - 1):
        return None
    return 32 * int(places[0]) + word.bit_length() - 1
