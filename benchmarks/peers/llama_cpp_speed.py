"""Tokens a second of llama.cpp on a GGUF file; run by an interpreter that has llama-cpp-python.

    python benchmarks/peers/llama_cpp_speed.py model.gguf --prompts 32 512 1000 --rows 1 --threads 1

With one thread the process keeps to one core and its clock is that of the processor, which others'
work does not move; with more it is the wall's. Prints JSON: for each length of prompt the seconds
to the first token, then tokens a second of all rows together while `--tokens` more are made; each
the median of `--rounds`, and the rounds. Knows nothing of keras_gemma.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import time

import llama_cpp
import numpy as np

CACHES = {"float32": 0, "float16": 1}  # ggml's types


class Model:
    """A model with room for `rows` texts of `length` tokens."""

    def __init__(self, path, rows, length, threads, cache):
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            raise SystemExit(f"llama.cpp can't load {path}.")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = rows * length, rows
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = CACHES[cache]
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)
        self.most = options.n_batch
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )

    def forget(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def read(self, ids, position, row):
        """The likeliest token after `ids`, which stand from `position` on."""
        for first in range(0, len(ids), self.most):
            part = ids[first : first + self.most]
            self._fill([(token, position + first + i, row) for i, token in enumerate(part)])
            self.batch.logits[len(part) - 1] = first + len(part) == len(ids)
            self._decode()
        return self._best(len(part) - 1)

    def step(self, ids, position):
        """The next token of each row."""
        self._fill([(token, position, row) for row, token in enumerate(ids)])
        for row in range(len(ids)):
            self.batch.logits[row] = True
        self._decode()
        return [self._best(row) for row in range(len(ids))]

    def _fill(self, tokens):
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, row) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, False
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row

    def _decode(self):
        if code := llama_cpp.llama_decode(self.context, self.batch):
            raise SystemExit(f"llama_decode failed with {code}.")

    def _best(self, place):
        logits = llama_cpp.llama_get_logits_ith(self.context, place)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())


def measured(model, prompt, rows, tokens, clock):
    """`(seconds to the first token of one row, tokens a second)` of one round."""
    random = np.random.default_rng(0)
    ids = random.integers(300, model.vocabulary, (rows, prompt)).tolist()
    model.forget()
    began = clock()
    last = [model.read(ids[0], 0, 0)]
    first_token = clock() - began
    last += [model.read(ids[row], 0, row) for row in range(1, rows)]
    began = clock()
    for step in range(tokens):
        last = model.step(last, prompt + step)
    return first_token, rows * tokens / (clock() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--prompts", nargs="+", type=int, default=[32, 512, 1000])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", choices=CACHES, default="float16", help="float16 is its own")
    arguments = parser.parse_args()
    clock = time.perf_counter
    if arguments.threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        clock = time.process_time
    silent = llama_cpp.llama_log_callback(lambda level, text, _: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    length = max(arguments.prompts) + arguments.tokens
    began = clock()
    model = Model(arguments.path, arguments.rows, length, arguments.threads, arguments.cache)
    found = {
        "peer": f"llama-cpp-python {llama_cpp.__version__}",
        "system": llama_cpp.llama_print_system_info().decode(),
        **vars(arguments),
        "clock": "processor" if arguments.threads == 1 else "wall",
        "seconds_to_load": round(clock() - began, 3),
        "prompts": {},
    }
    for prompt in arguments.prompts:
        measured(model, prompt, arguments.rows, 2, clock)  # touches what is mapped
        runs = [
            measured(model, prompt, arguments.rows, arguments.tokens, clock)
            for _ in range(arguments.rounds)
        ]
        firsts, rates = zip(*runs, strict=True)
        found["prompts"][prompt] = {
            "seconds_to_first_token": round(statistics.median(firsts), 4),
            "tokens_per_second": round(statistics.median(rates), 2),
            "rounds": [[round(first, 4), round(rate, 2)] for first, rate in runs],
        }
    found["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
