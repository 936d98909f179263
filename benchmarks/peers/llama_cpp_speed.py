"""llama.cpp's side of a scene, on a GGUF file; run by an interpreter that has llama-cpp-python.

    KERAS_GEMMA_GGUF=model.gguf python benchmarks/peers/llama_cpp_speed.py 270m int8 1

`random_gguf.py` writes the file. Keys and values are kept in float16, as llama.cpp does by itself.
"""

import ctypes
import itertools
import os

import numpy as np
from timing import serve, versions


class Model:
    """A model, and a context with room for some rows of some length."""

    def __init__(self, shape, dtype, cores):
        import llama_cpp

        self.api, self.threads, path = llama_cpp, cores, os.environ["KERAS_GEMMA_GGUF"]
        self.silent = llama_cpp.llama_log_callback(lambda level, text, _: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise ValueError(f"llama.cpp can't load {path}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )
        self.facts = {
            "versions": versions("llama-cpp-python"),
            "system": llama_cpp.llama_print_system_info().decode(),
        }
        self.room, self.context = (0, 0), None

    def generate(self, ids, count, room):
        rows, prompt = ids.shape
        self._make_room(rows, prompt + room)
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        made = [self._read(ids)]
        for step in range(count - 1):
            tokens = [(token, prompt + step, row, True) for row, token in enumerate(made[-1])]
            made.append(self._decoded(tokens))
        return np.array(made).T

    def answer_all(self, requests, slots, gap):
        """As its server does: each round reads the newest token of all and the prompts of those who came."""
        self._make_room(slots, max(len(ids) + count for ids, count in requests))
        memory = self.api.llama_get_memory(self.context)
        self.api.llama_memory_clear(memory, True)
        made, free, running, came = [[] for _ in requests], [*range(slots)], {}, 0
        waiting = []
        for turn in itertools.count():
            if turn % gap == 0 and came < len(requests):
                waiting.append(came)
                came += 1
            tokens = []
            for slot, number in running.items():
                place = len(requests[number][0]) + len(made[number]) - 1
                tokens.append((made[number][-1], place, slot, True))
            while waiting and free:
                slot, number = free.pop(), waiting.pop(0)
                running[slot], ids = number, requests[number][0]
                tokens += [(int(x), i, slot, i == len(ids) - 1) for i, x in enumerate(ids)]
            if not tokens and came == len(requests):
                return made
            # Those of `running` are in the order of `tokens`: a slot that is taken again comes last.
            for (slot, number), token in zip([*running.items()], self._read_all(tokens)):
                made[number].append(token)
                if len(made[number]) == requests[number][1]:
                    del running[slot]
                    free.append(slot)
                    self.api.llama_memory_seq_rm(memory, slot, -1, -1)

    def _make_room(self, rows, length):
        if self.room == (rows, length):
            return
        if self.context:
            self.api.llama_free(self.context)
        options = self.api.llama_context_default_params()
        options.n_ctx, options.n_seq_max = rows * length, rows
        options.n_threads = options.n_threads_batch = self.threads
        self.context = self.api.llama_init_from_model(self.model, options)
        if not self.context:
            raise ValueError(f"llama.cpp can't make room for {rows} rows of {length} tokens")
        self.batch = self.api.llama_batch_init(options.n_batch, 0, 1)
        self.most, self.room = options.n_batch, (rows, length)

    def _read(self, ids):
        """The likeliest token after each row; all rows are read together."""
        last = ids.shape[1] - 1
        tokens = [
            (int(token), place, row, place == last)
            for row, text in enumerate(ids)
            for place, token in enumerate(text)
        ]
        return self._read_all(tokens)

    def _read_all(self, tokens):
        made = []
        for first in range(0, len(tokens), self.most):
            made += self._decoded(tokens[first : first + self.most])
        return made

    def _decoded(self, tokens):
        """The likeliest token after those of `tokens` (id, place, row, is wanted) that are wanted."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, place, row, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, place, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        if code := self.api.llama_decode(self.context, batch):
            raise ValueError(f"llama_decode failed with {code}")
        return [self._best(i) for i, token in enumerate(tokens) if token[3]]

    def _best(self, place):
        logits = self.api.llama_get_logits_ith(self.context, place)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())


if __name__ == "__main__":
    serve(Model)
