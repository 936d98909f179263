"""Who is measured, and the processes that do it: one per side, kept while there is memory."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from machine import available_memory, busy_seconds, processor_seconds

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))

from shapes import SHAPES, both_branches, parameters  # noqa: F401

FLOATS = ("float32", "bfloat16")
BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "int8": 34 / 32, "int4": 18 / 32}
DTYPES = tuple(BYTES_PER_WEIGHT)
GGUF = {"float32": "float32", "bfloat16": "bfloat16", "int8": "q8_0", "int4": "q4_0"}
SLOWEST = 900  # seconds that an answer may take


class Side(NamedTuple):
    """A library on a backend."""

    library: str
    backend: str = ""
    dtypes: tuple = FLOATS
    environment: tuple = ()  # pairs
    scenes: tuple = ()  # those it is measured in; all if empty

    def takes(self, scene: str, dtype: str) -> bool:
        """Whether it is to be asked."""
        return dtype in self.dtypes and (not self.scenes or scene in self.scenes)


def _ours(backend, environment=(), scenes=()):
    return Side("keras_gemma", backend, DTYPES, environment, scenes)


PURE = (("KERAS_GEMMA_KERNELS", "0"),)
NO_PLAN = (("KERAS_GEMMA_SPEED_PLAN", "none"),)
SIDES = {
    "keras_gemma/jax": _ours("jax"),
    "keras_gemma/jax/pure": _ours("jax", PURE),
    "keras_gemma/jax/no_plan": _ours("jax", NO_PLAN, ("peak_memory",)),
    "keras_gemma/torch": _ours("torch"),
    "keras_gemma/torch/pure": _ours("torch", PURE),
    "keras_gemma/torch/no_plan": _ours("torch", NO_PLAN, ("peak_memory",)),
    "keras_gemma/tensorflow": _ours("tensorflow"),
    "keras_hub/jax": Side("keras_hub", "jax"),
    "keras_hub/torch": Side("keras_hub", "torch"),
    "keras_hub/tensorflow": Side("keras_hub", "tensorflow"),
    "zeromodels/jax": Side("zeromodels", "jax"),
    "zeromodels/torch": Side("zeromodels", "torch"),
    "transformers/torch": Side("transformers", "torch"),
    "llama_cpp": Side("llama_cpp", "", DTYPES),
}
PRODUCTS = {f"products/{b}": Side("products", b) for b in ("jax", "torch", "tensorflow")}


def environment(side: Side, cores: int) -> dict:
    """Variables of a side's process, so that it takes as many threads as it has cores."""
    variables = {
        **os.environ,
        "KERAS_BACKEND": side.backend,
        "OMP_NUM_THREADS": str(cores),
        "TF_NUM_INTRAOP_THREADS": str(cores),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **dict(side.environment),
    }
    variables.pop("XLA_FLAGS", None)
    if cores == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return variables


class Worker:
    """A side's process: its first answer tells what it is, or why it could not start."""

    def __init__(self, command: list[str], variables: dict):
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )
        self.others = []  # cores that were busy elsewhere during each answer
        self.facts = self._answer()

    def ask(self, request: dict) -> dict:
        """What its process answers."""
        busy, own = busy_seconds(), processor_seconds(self.process.pid)
        began = time.perf_counter()
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return {"failed": self._last_words()}
        answer = self._answer()
        with contextlib.suppress(OSError):  # it is gone
            elsewhere = busy_seconds() - busy - processor_seconds(self.process.pid) + own
            self.others.append(elsewhere / (time.perf_counter() - began))
        return answer

    def _answer(self):
        watch = threading.Timer(SLOWEST, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        return json.loads(line) if line else {"failed": self._last_words()}

    def _last_words(self):
        code = self.process.wait()
        self.complaints.seek(0)
        lines = self.complaints.read().strip().splitlines()
        return f"exit {code}: {lines[-1][:200] if lines else 'nothing was said'}"

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.complaints.close()


class Pool:
    """The workers of all sides, for one shape and dtype.

    They live on between their turns, so that a model is made and compiled once. When memory
    runs short, the one that was asked last makes room: with sides taking turns, the others are due
    sooner.
    """

    def __init__(
        self,
        shape: str,
        dtype: str,
        cores: int,
        core: int,
        pythons: dict,
        folder: Path,
        room: int = 3,  # what a worker takes, in its weights' bytes
    ):
        self.shape, self.dtype, self.cores, self.core = shape, dtype, cores, core
        self.pythons, self.folder, self.room = pythons, folder, room
        self.workers: dict[str, Worker] = {}  # the one asked last comes last
        self.facts: dict[str, dict] = {}
        self.others: list[float] = []

    def ask(self, name: str, request: dict) -> dict:
        """An answer of the worker that a side keeps; one that can't start isn't started again."""
        if "failed" in self.facts.get(name, {}):
            return self.facts[name]
        worker = self.workers.pop(name, None) or self._start(name, self.shape, {})
        self.facts[name] = worker.facts
        if "failed" in worker.facts:
            worker.stop()
            return worker.facts
        answer = worker.ask(request)
        self.others += worker.others[-1:]
        if worker.process.poll() is None:
            self.workers[name] = worker
        else:
            worker.stop()
        return answer

    def ask_afresh(self, name: str, request: dict, shape: str = "", variables: dict | None = None):
        """An answer of a process that answers nothing else."""
        worker = self._start(name, shape or self.shape, variables or {})
        self.facts[name] = worker.facts
        answer = worker.facts if "failed" in worker.facts else worker.ask(request)
        self.others += worker.others
        worker.stop()
        return answer

    def weight_bytes(self) -> int:
        """What the weights take at the least."""
        return int(parameters(SHAPES[self.shape]) * BYTES_PER_WEIGHT[self.dtype])

    def close(self) -> None:
        """End all workers."""
        while self.workers:
            self.workers.popitem()[1].stop()

    def _start(self, name, shape, variables):
        needed = 10**9 + self.room * self.weight_bytes()
        while self.workers and available_memory() < needed:
            self.workers.popitem()[1].stop()
        side = SIDES.get(name) or PRODUCTS[name]
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        variables = {**environment(side, self.cores), **compiled, **variables}
        if side.library == "llama_cpp":
            variables["KERAS_GEMMA_GGUF"] = str(self._gguf(shape))
        python = self.pythons.get(side.library, sys.executable)
        command = [python, str(PEERS / f"{side.library}_speed.py")]
        command += [shape, self.dtype, str(self.cores)]
        if self.cores == 1:
            command = ["taskset", "-c", str(self.core), *command]
        return Worker(command, variables)

    def _gguf(self, shape):
        dtype = GGUF[self.dtype]
        path = self.folder / f"{shape}_{dtype}.gguf"
        if not path.exists():
            command = [sys.executable, str(PEERS / "random_gguf.py"), shape, str(path)]
            command += ["--dtype", dtype]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        return path
