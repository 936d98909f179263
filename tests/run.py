"""The test command: the whole suite on each backend, a process each, two side by side.

python tests/run.py                         # JAX, TensorFlow, PyTorch, and line coverage
python tests/run.py --backend jax           # one of them
python tests/run.py --backend jax -- tests/text -k turns     # what follows -- is for pytest
"""

import argparse
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

# The longest first, so that none is left alone at the end.
BACKENDS = ("jax", "tensorflow", "torch")
# TensorFlow keeps what XLA compiled as long as its process lives, some 45 MB a program: these have processes of their own.
APART = {"tensorflow": ("models", "generation")}
ONCE = "torch"  # has no programs to compile, which is most of the time of small tests
AT_ONCE = 2
COVERED = "torch"  # the backend whose suites tell which lines they ran
COVERAGE_FLOOR = 90  # per cent of the lines of keras_gemma
ROOT = Path(__file__).resolve().parents[1]
# Two thirds of a test's time on JAX is LLVM at work on a program that runs for a millisecond, and many
# tests make the same program. A second run finds nearly all of them, and takes a third of the time. XLA's
# newer way to fuse loops makes longer programs of them, and a quarter of the rest; to compile a program's
# parts side by side takes a tenth longer where there is one core for it.
QUICKLY_COMPILED = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
}
# The models of tests are too small for two threads, and PyTorch's wait for each other by spinning: beside
# another suite, on two cores, that makes its own take two and a half times as long.
ENVIRONMENT = {
    "jax": {
        **QUICKLY_COMPILED,
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    },
    "tensorflow": {**QUICKLY_COMPILED, "TF_NUM_INTRAOP_THREADS": "1"},
    "torch": {"OMP_NUM_THREADS": "1"},
}


def main() -> int:
    """Run and report; 0 if every backend ran some tests and none failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="one, not all three")
    parser.add_argument("--slow", action="store_true", help="the slow tests as well")
    parser.add_argument("rest", nargs="*", metavar="PYTEST", help="arguments of pytest, after --")
    arguments = parser.parse_args()
    backends = arguments.backend or BACKENDS
    suites = divided(backends, arguments)
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        alone = len(suites) == 1
        # A suite keeps little more than one core busy: it compiles, and waits for what it compiled.
        with ThreadPoolExecutor(1 if alone else AT_ONCE) as pool:
            results = list(pool.map(lambda suite: run(suite, Path(folder), alone), suites))
        good = all(passed for _, passed in results)
        if not arguments.rest and len(backends) == len(BACKENDS):
            good = covered(Path(folder)) and good
    print("\n".join(["", *(line for line, _ in results)]))
    print(f"all: {'passed' if good else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return 0 if good else 1


class Suite(NamedTuple):
    """Tests that one process runs."""

    name: str
    backend: str
    marks: str
    rest: list  # of pytest's arguments


def divided(backends, arguments):
    """The suites, in the order in which they start.

    In a run of several backends, what is the same whatever the backend is a suite by itself.
    """
    usual = [] if arguments.slow else ["not slow"]
    apart = len(backends) > 1 and not arguments.rest
    own = [*usual, "not once"] if apart else usual
    marks = " and ".join(own)
    if not apart:
        return [Suite(name, name, marks, arguments.rest) for name in backends]
    suites = [Suite("once", ONCE, " and ".join([*usual, "once"]), [])]
    everything = {path.name for path in (ROOT / "tests").iterdir()} - {"conftest.py"}
    for name in backends:
        folders = APART.get(name, ())
        suites.append(Suite(name, name, marks, [f"--ignore=tests/{folder}" for folder in folders]))
        for folder in folders:
            others = [f"--ignore=tests/{other}" for other in sorted(everything - {folder})]
            suites.append(Suite(f"{name}, {folder}", name, marks, others))
    return suites


def run(suite, folder, alone):
    """`(closing line, whether all is well)` of a suite.

    What it prints comes as it goes, or at the end where others run beside it.
    """
    name, backend, marks, rest = suite
    report = folder / f"{name}.xml"
    command = [sys.executable]
    if backend == COVERED and not alone:
        lines = folder / f"{name}.json"
        command += ["-m", "slipcover", "--source", "keras_gemma", "--json", "--out", lines]
    command += ["-m", "pytest", f"--junitxml={report}", "-q", "--durations=10"]
    command += ["-m", marks] if marks else []
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        **ENVIRONMENT[backend],
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    began = time.monotonic()
    done = subprocess.run(
        command + rest,
        check=False,
        cwd=ROOT,
        env=environment,
        stdout=None if alone else subprocess.PIPE,
        stderr=None if alone else subprocess.STDOUT,
    )
    code, seconds = done.returncode, time.monotonic() - began
    if not alone:
        text = done.stdout.decode("utf-8", "replace")
        with PRINTING:
            print(f"\n===== {name} =====\n{text}", flush=True)
    counts = counted(report)
    if code:
        verdict = f"FAILED (pytest's exit code {code})"
    else:
        verdict = "passed" if counts["ran"] else "FAILED: no test ran"
    line = (
        f"{name}: {verdict} in {seconds:.0f} s; {counts['ran']} ran, "
        f"{counts['skipped']} skipped, {counts['failed']} failed"
    )
    return line, code == 0 and counts["ran"] > 0


def counted(report):
    """How many tests ran, were skipped and failed, from pytest's report."""
    if not report.exists():
        return {"ran": 0, "skipped": 0, "failed": 0}
    suites = list(xml.parse(report).getroot().iter("testsuite"))
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in _KEYS}
    return {
        "ran": total["tests"] - total["skipped"],
        "skipped": total["skipped"],
        "failed": total["failures"] + total["errors"],
    }


_KEYS = ("tests", "skipped", "failures", "errors")
PRINTING = threading.Lock()


def covered(folder):
    """Whether enough lines were run; prints what was not."""
    command = [sys.executable, "-m", "slipcover", "--merge", *folder.glob("*.json")]
    command += ["--out", folder / "merged", "--skip-covered", "--fail-under", str(COVERAGE_FLOOR)]
    return subprocess.run(command, check=False, cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
