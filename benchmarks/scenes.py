"""What is measured: a scene is a record, with a function that asks one side for its figure."""

import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from typing import NamedTuple

from sides import Pool


class Scene(NamedTuple):
    """A row of the table."""

    title: str
    figure: str  # the number of an answer that sides are compared by
    run: Callable[[Pool, str], dict]
    most_rounds: int = 99  # where one costs two processes, and differs little from the next
    sides: tuple = ("*",)  # patterns of those that can show anything in it

    def suits(self, name: str) -> bool:
        """Whether a side is to be asked."""
        return any(fnmatch(name, pattern) for pattern in self.sides)

    @property
    def more_is_better(self) -> bool:
        """Whether a larger figure wins: rates do, seconds and bytes don't."""
        return self.figure == "tokens_per_second"


def warm(measure: str, **arguments) -> Callable[[Pool, str], dict]:
    """Asks the process that a side keeps; measures are those of peers/timing.py."""
    return lambda pool, name: pool.ask(name, {"measure": measure, **arguments})


def cold(processes: int) -> Callable[[Pool, str], dict]:
    """The first call of the last of some processes that share what JAX keeps of its compilations."""

    def run(pool, name):
        request = {"measure": "cold", "prompt": 32, "count": 32}
        with tempfile.TemporaryDirectory() as folder:
            # Ours keeps what takes a tenth of a second where it is told of a folder, JAX a second.
            variables = {"JAX_COMPILATION_CACHE_DIR": folder}
            if name.startswith("keras_gemma/"):  # JAX's own folder would come before ours
                variables = {
                    "JAX_COMPILATION_CACHE_DIR": "",
                    "KERAS_GEMMA_COMPILATION_CACHE": folder,
                }
            answers = [
                pool.ask_afresh(name, request, variables=variables) for _ in range(processes)
            ]
        return answers[-1]

    return run


def peak_memory(pool: Pool, name: str) -> dict:
    """The process's peak, less what the same script takes with the tiny model."""
    request = {"measure": "peak_memory", "prompt": 32, "count": 72}
    found = pool.ask_afresh(name, request)
    tiny = pool.ask_afresh(name, request, shape="tiny")
    for answer in (found, tiny):
        if "failed" in answer:
            return answer
    extra = found["bytes"] - tiny["bytes"]
    return {"bytes": extra, "of_weights": extra / pool.weight_bytes()}


SCENES = {
    "decode_32": Scene(
        "decode, prompt of 32",
        "tokens_per_second",
        warm("decode", prompt=32, rows=1, short=8, long=72),
    ),
    # The longer answer ends at 1,024, so that no library has to make room for more.
    "decode_1000": Scene(
        "decode, prompt of 1,000",
        "tokens_per_second",
        warm("decode", prompt=1000, rows=1, short=4, long=24),
    ),
    "decode_32_rows_8": Scene(
        "decode, 8 rows, prompts of 32",
        "tokens_per_second",
        warm("decode", prompt=32, rows=8, short=8, long=32),
    ),
    "first_token_32": Scene("first token, prompt of 32", "seconds", warm("first_token", prompt=32)),
    "first_token_512": Scene(
        "first token, prompt of 512", "seconds", warm("first_token", prompt=512, repeats=2)
    ),
    "second_turn": Scene(
        "first token after a history of 1,000",
        "seconds",
        warm("second_turn", history=1000, message=16),
        sides=("keras_gemma/*", "keras_hub/jax", "transformers/torch"),
    ),
    "slots_16": Scene(
        "32 requests that come one by one, 16 slots",
        "tokens_per_second",
        warm("ragged", slots=16, requests=32, gap=2),
        2,
        ("keras_gemma/*", "llama_cpp"),
    ),
    "json_schema": Scene(
        "decode, JSON of a schema",
        "tokens_per_second",
        warm("constrained", prompt=32, short=8, long=72),
        sides=("keras_gemma/*",),
    ),
    # The 80 tokens that are timed are two spans of 40; of each 32 are quoted, or none.
    "lookup_quoting": Scene(
        "prompt lookup, four fifths of the answer quoted",
        "tokens_per_second",
        warm("prompt_lookup", prompt=320, short=8, long=88, copied=32),
        3,
        ("keras_gemma/*",),
    ),
    "lookup_new": Scene(
        "prompt lookup, nothing quoted",
        "tokens_per_second",
        warm("prompt_lookup", prompt=320, short=8, long=88, copied=0),
        3,
        ("keras_gemma/*",),
    ),
    "cold": Scene("first call of a process, 32 tokens", "seconds", cold(processes=1), 2),
    "cold_compiled": Scene(
        "first call, compiled by an earlier process", "seconds", cold(processes=2), 2, ("*/jax*",)
    ),
    "peak_memory": Scene("peak memory of generate", "bytes", peak_memory, 1),
}
