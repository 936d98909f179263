"""Requests of unlike length that enter and leave one batch while others go on."""

import collections
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gemma.generation.compiled import put_row
from keras_gemma.generation.engine import Engine
from keras_gemma.generation.run import TokenLogProb, check_tokens, recorded_log_probs
from keras_gemma.generation.state import Request, allowed_rows, numpy, opening_state, tensor

_STOPS = 8  # ids that may end a text; the shape of a program


class Ticket:
    """One request on its way: what was made of it so far, and why it ended."""

    def __init__(self, request: Request):
        self.request = request
        self.ids: list[int] = []  # made so far
        self.log_probs: list[TokenLogProb] = []  # of them, where they are recorded
        self.finish_reason: str | None = None  # "stop", "length" or "cancelled"


class SlotBatch:
    """A batch of fixed shape, each row of which is one request's until it ends.

    A round (`step`) reads one chunk of one waiting prompt, and then makes tokens for all who are
    running: a long prompt holds nobody up for longer than a chunk takes. Prompts are read in the
    order in which they came. A request gets the text that it gets alone.

    Args:
        engine: that does the work.
        slots: rows.
        length: longest text in tokens, prompt included.
        settings: numbers of the sampler that requests may set, with the values of those that don't.
        top: record log-probabilities, and those of so many of the likeliest tokens beside each.
    """

    def __init__(
        self,
        engine: Engine,
        slots: int,
        length: int,
        settings: Mapping[str, float] | None = None,
        top: int | None = None,
    ):
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}.")
        self.engine, self.length, self.top = engine, length, top
        self.settings = dict(settings or {})
        self._rows: list[Ticket | None] = [None] * slots
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._opening: Any = None  # (ticket, chunks still to be read)
        self._state: Any = None
        self._slots = 0  # of the caches
        self._constrained = False
        self._place = engine.compile(_placed, donate=0)

    @property
    def is_busy(self) -> bool:
        """Whether anything is waiting or under way."""
        return bool(self._waiting or self._opening or any(self._rows))

    def submit(self, request: Request) -> Ticket:
        """Put a request in line.

        Raises:
            ValueError: it is longer than this batch's texts, sets a number of the sampler that
                isn't there, or has too many ids that stop it.
        """
        if request.limit > self.length:
            raise ValueError(
                f"A text of {request.limit} tokens does not fit this batch's length={self.length}: "
                f"with its prompt of {len(request.prompt)}, {self.length - len(request.prompt)} "
                "new tokens do."
            )
        if unknown := set(request.settings) - set(self.settings):
            raise ValueError(
                f"This batch's sampler has no {', '.join(sorted(unknown))} that a request could "
                f"set. It has: {', '.join(self.settings) or 'none'}."
            )
        if len(request.stop_ids) > _STOPS:
            raise ValueError(f"{len(request.stop_ids)} ids to stop at; at most {_STOPS} do.")
        ticket = Ticket(request._replace(settings={**self.settings, **request.settings}))
        if request.limit <= len(request.prompt):
            ticket.finish_reason = "length"
        else:
            self._waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request where it is. Its place is free for the next round."""
        if ticket.finish_reason is not None:
            return
        ticket.finish_reason = "cancelled"
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif self._opening and self._opening[0] is ticket:
            self._opening = None
        else:
            self._release([self._rows.index(ticket)])

    def step(self, tokens: int = 1) -> list[tuple[Ticket, list[int]]]:
        """One round. Returns the requests that got on, each with its new ids.

        `tokens` are made for each; more at once spare time between programs, and those who wait,
        or cancel, wait longer.
        """
        news = self._read()
        if any(self._rows):
            # What a constraint allows next is known only when what came is.
            steps = 1 if any(t and t.request.matcher for t in self._rows) else tokens
            self._state = self.engine.advance(self._state, steps)
            news += self._look()
        return news

    # --- prompts ---

    def _read(self):
        """Read one chunk; where it was a prompt's last one, put the text into a free row."""
        if self._opening is None and self._waiting and None in self._rows:
            ticket = self._waiting.popleft()
            self._opening = (
                ticket,
                self.engine.starting(
                    [ticket.request], self.top, length=self.length, slots=self._slots, stops=_STOPS
                ),
            )
        if self._opening is None:
            return []
        ticket, chunks = self._opening
        state = next(chunks)
        if state is None:
            return []
        self._opening = None
        row = self._rows.index(None)
        self._rows[row] = ticket
        self._enter(state, row)
        return self._look([row])

    def _enter(self, one, row):
        self._slots = max(self._slots, one.caches[0].segment.shape[1], self._room(one))
        if self._state is None:
            self._state = self._blank(one)
        self._state = self.engine.with_room(self._state, self._slots)
        one = self.engine.with_room(one, self._slots)
        if isinstance(one.allowed, tuple) and not isinstance(self._state.allowed, tuple):
            every = np.full((1, self._state.allowed.shape[1]), -1, "int32")
            one = one._replace(allowed=tensor(every))
        elif not isinstance(one.allowed, tuple) and isinstance(self._state.allowed, tuple):
            every = np.full((len(self._rows), one.allowed.shape[1]), -1, "int32")
            self._state = self._state._replace(allowed=tensor(every))
        self._state = self._place(self._state, one, row)
        self.engine.keep(one)  # others may begin like it

    def _room(self, state):
        return max(cache.segment.shape[1] for cache in state.caches)

    def _blank(self, one):
        """A state of all rows, none of them running, in which `one` fits."""
        nobody = Request([0], self.length, frozenset(), 0, self.settings)
        rows = len(self._rows)
        state = opening_state([nobody] * rows, self.top, length=self.length, stops=_STOPS)
        return state._replace(
            running=ops.zeros_like(state.running),
            caches=self.engine.empty(rows, self._slots),
        )

    # --- rows ---

    def _look(self, rows=None):
        """What came for the running rows, or for `rows`; those who ended leave."""
        state, news, ended = self._state, [], []
        running, lengths = numpy(state.running), numpy(state.lengths)
        token_ids = numpy(state.token_ids)
        check_tokens(token_ids, lengths)
        for row in range(len(self._rows)) if rows is None else rows:
            ticket = self._rows[row]
            if ticket is None:
                continue
            prompt, matcher = len(ticket.request.prompt), ticket.request.matcher
            new = token_ids[row, prompt + len(ticket.ids) : lengths[row]].tolist()
            if self.top is not None and new:
                start = prompt + len(ticket.ids)
                ticket.log_probs += recorded_log_probs(state, row, start, lengths[row])
            ticket.ids += new
            for token in new if matcher is not None else ():
                matcher.accept(token)
            if not running[row] or (matcher is not None and matcher.finished):
                stopped = ticket.ids[-1] in ticket.request.stop_ids
                done = stopped or (matcher is not None and matcher.finished)
                ticket.finish_reason = "stop" if done else "length"
                ended.append(row)
            if new:
                news.append((ticket, new))
        self._release(ended)
        if any(t and t.request.matcher for t in self._rows):
            requests = [t.request if t else Request([0], 1) for t in self._rows]
            allowed = allowed_rows(requests, tensor)
            self._state = self._state._replace(allowed=allowed)
        return news

    def _release(self, rows):
        if not rows:
            return
        running = np.array(numpy(self._state.running))
        for row in rows:
            self._rows[row], running[row] = None, False
        self._state = self._state._replace(running=tensor(running))


def _placed(state, one, row):
    """The state with the one row of another in its row."""
    parts = {name: getattr(state, name) for name in state._fields if name != "steps"}
    new = {name: getattr(one, name) for name in parts}
    placed = keras.tree.map_structure(lambda a, b: put_row(a, row, b), parts, new)
    return state._replace(**placed)
