"""How every peer is measured: a process that holds one model and answers requests about it.

    python keras_hub_speed.py SHAPE DTYPE CORES

A request is a line of JSON on stdin, `{"measure": "decode", "prompt": 32, …}`, and so is its answer on
stdout. With one core seconds are the processor's, which others' work does not move; with more they are
the wall's. Knows no peer; runs in any interpreter that has NumPy.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from shapes import SHAPES


class Peer(Protocol):
    """A model of some library."""

    facts: dict  # versions, and what else a figure depends on

    def generate(self, ids: np.ndarray, count: int, room: int) -> Any:
        """Greedily continue each row of `ids` by `count` tokens; returns them, one row per row.

        `room` is the largest `count` of this scene, for libraries whose programs are made for it.
        """

    def answer_all(
        self, requests: list[tuple[np.ndarray, int]], slots: int, gap: int
    ) -> list[list[int]]:
        """Continue prompts of unlike lengths, each by its own count, `slots` of them at a time.

        One comes in every `gap` tokens. Only libraries that can do so have this.
        """
        ...

    def prepare(self, rank: int) -> None:
        """Make ready to train with AdamW: adapters of that rank on queries and values, or all weights if 0."""
        ...

    def train(self, ids: np.ndarray, rows: int) -> float:
        """A step for every `rows` texts of `ids`, on all their tokens; returns the last loss."""
        ...


class Session:
    """A peer, a clock, and prompts that never come twice."""

    def __init__(self, peer: Peer, clock: Callable[[], float], vocabulary: int):
        self.peer, self.clock, self.vocabulary = peer, clock, vocabulary
        self.random = np.random.default_rng(0)
        self.warm = set()

    def prompts(self, rows: int, length: int) -> np.ndarray:
        """New ones each time, so that what a library remembers of a prompt helps nobody."""
        low = min(300, self.vocabulary // 2)  # above control tokens and bytes
        return self.random.integers(low, self.vocabulary, (rows, length), "int32")

    def seconds(self, rows: int, length: int, count: int, room: int) -> float:
        """What a call takes once it is compiled."""
        if (call := (rows, length, count, room)) not in self.warm:
            self.timed(*call)
            self.warm.add(call)
        return self.timed(rows, length, count, room)

    def timed(self, rows: int, length: int, count: int, room: int) -> float:
        """What a call takes."""
        ids = self.prompts(rows, length)
        began = self.clock()
        made = self.peer.generate(ids, count, room)
        seconds = self.clock() - began
        if (shape := np.shape(made)) != (rows, count):
            raise ValueError(f"made tokens of shape {shape}, not {(rows, count)}")
        return seconds


def decode(session: Session, prompt: int, rows: int, short: int, long: int) -> dict:
    """Tokens a second of all rows: from what a longer answer takes more than a shorter one."""
    few, many = (session.seconds(rows, prompt, count, long) for count in (short, long))
    return {"tokens_per_second": rows * (long - short) / (many - few)}


def first_token(session: Session, prompt: int, rows: int = 1, repeats: int = 3) -> dict:
    """Seconds from a prompt to its first token; the best of some calls."""
    return {"seconds": min(session.seconds(rows, prompt, 1, 1) for _ in range(repeats))}


def second_turn(session: Session, history: int, message: int, answer: int = 24) -> dict:
    """Seconds to the first token after a history that the model read and wrote, and of one anew.

    The history is a prompt and an answer of `answer` tokens; `message` tokens follow it.
    """

    def turn():
        prompt = session.prompts(1, history - answer)
        made = np.asarray(session.peer.generate(prompt, answer, answer), "int32")
        text = np.concatenate([prompt, made, session.prompts(1, message)], axis=1)
        began = session.clock()
        session.peer.generate(text, 1, 1)
        return session.clock() - began

    anew = session.seconds(1, history + message, 1, 1)
    if "turn" not in session.warm:
        turn()
        session.warm.add("turn")
    seconds = turn()
    return {"seconds": seconds, "of_anew": seconds / anew}


def ragged(session: Session, slots: int, requests: int, gap: int) -> dict:
    """New tokens a second of many requests that share some slots, beside one after another.

    Prompts have 16 to 128 tokens and answers 16 to 64, drawn once and for all.
    """
    lengths = np.random.default_rng(1).integers(16, (129, 65), (requests, 2)).tolist()

    def all_in_slots():
        asked = [(session.prompts(1, prompt)[0], count) for prompt, count in lengths]
        began = session.clock()
        made = session.peer.answer_all(asked, slots, gap)
        seconds = session.clock() - began
        if (found := [len(ids) for ids in made]) != [count for _, count in lengths]:
            raise ValueError(f"made {found} tokens")
        return sum(count for _, count in lengths) / seconds

    # The first third tells the rate of one after another.
    some = lengths[: -(-requests // 3)]
    alone = sum(count for _, count in some) / sum(
        session.seconds(1, prompt, count, count) for prompt, count in some
    )
    if (call := ("ragged", slots, requests, gap)) not in session.warm:
        all_in_slots()
        session.warm.add(call)
    rate = all_in_slots()
    return {"tokens_per_second": rate, "of_one_by_one": rate / alone}


def cold(session: Session, prompt: int, count: int) -> dict:
    """Seconds of the first call of a process."""
    return {"seconds": session.timed(1, prompt, count, count)}


def training(session: Session, rows: int, length: int, steps: int, warm: int, rank: int) -> dict:
    """Tokens a second of some steps after `warm` ones, and the most memory that the process ever had."""
    if (call := ("training", rows, length, rank)) not in session.warm:
        session.peer.prepare(rank)
        session.peer.train(session.prompts(warm * rows, length + 1), rows)
        session.warm.add(call)
    ids = session.prompts(steps * rows, length + 1)
    began = session.clock()
    loss = session.peer.train(ids, rows)
    seconds = session.clock() - began
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    rate = steps * rows * length / seconds
    return {"tokens_per_second": rate, "bytes": largest_memory(), "loss": float(loss)}


def largest_memory() -> int:
    """Bytes of the process at its peak; `ru_maxrss` would count those of the one that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def peak_memory(session: Session, prompt: int, count: int) -> dict:
    """Largest memory of the process while it generates; what making the model took is not in it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    session.timed(1, prompt, count, count)
    return {"bytes": largest_memory()}


MEASURES = {
    f.__name__: f for f in (decode, first_token, second_turn, ragged, cold, peak_memory, training)
}


def versions(*names: str) -> dict:
    """Versions of packages, of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def serve(build: Callable[[str, str, int], Peer], measures: dict = MEASURES) -> None:
    """Make the model that the command line names, then answer until stdin ends."""
    shape, dtype, cores = sys.argv[1], sys.argv[2], int(sys.argv[3])
    clock = time.process_time if cores == 1 else time.perf_counter
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(make):
        try:
            found = make()
        except ImportError as error:
            found = {"failed": f"not installed: {error.name}", "missing": True}
        except Exception as error:  # noqa: BLE001  (is one of the results)
            found = {"failed": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(found), file=answers)
        return found

    session: Any = None

    def start():
        nonlocal session
        peer = build(shape, dtype, cores)
        session = Session(peer, clock, SHAPES[shape]["vocabulary_size"])
        return {**peer.facts, "processor_seconds_to_start": round(time.process_time(), 2)}

    if "failed" in answer(start):
        return
    for line in sys.stdin:
        request = json.loads(line)
        measure = measures[request.pop("measure")]
        answer(lambda measure=measure, request=request: measure(session, **request))
