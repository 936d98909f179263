"""The test command: the whole suite on each backend, one process after another.

python tests/run.py                         # JAX, PyTorch, TensorFlow, and line coverage
python tests/run.py --backend jax           # one of them
python tests/run.py --backend jax -- tests/text -k turns     # what follows -- is for pytest
"""

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from pathlib import Path
from tempfile import TemporaryDirectory

BACKENDS = ("jax", "torch", "tensorflow")
COVERAGE_FLOOR = 90  # per cent of the lines of keras_gemma, over the three backends together
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run and report; 0 if every backend ran some tests and none failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="one, not all three")
    parser.add_argument("--slow", action="store_true", help="the slow tests as well")
    parser.add_argument("rest", nargs="*", metavar="PYTEST", help="arguments of pytest, after --")
    arguments = parser.parse_args()
    backends = arguments.backend or BACKENDS
    whole = not arguments.rest and len(backends) == len(BACKENDS)
    lines, good = [], True
    with TemporaryDirectory() as folder:
        for place, backend in enumerate(backends):
            marks = [] if arguments.slow else ["not slow"]
            if place:  # the same whatever the backend: the first one has run them
                marks.append("not once")
            line, passed = run(backend, " and ".join(marks), arguments.rest, Path(folder))
            lines.append(line)
            good = good and passed
        if whole:
            good = coverage(Path(folder)) and good
    print("\n".join(["", *lines]))
    return 0 if good else 1


def run(backend, marks, rest, folder):
    """`(closing line, whether all is well)` of the tests on one backend."""
    print(f"\n===== {backend} =====", flush=True)
    report = folder / f"{backend}.xml"
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-q"]
    command += ["-m", marks] if marks else []
    command += rest or ["--cov=keras_gemma", "--cov-report="]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "COVERAGE_FILE": str(folder / f".coverage.{backend}"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    began = time.monotonic()
    code = subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
    seconds = time.monotonic() - began
    counts = counted(report)
    if code:
        verdict = f"FAILED (pytest's exit code {code})"
    else:
        verdict = "passed" if counts["ran"] else "FAILED: no test ran"
    line = (
        f"{backend}: {verdict} in {seconds:.0f} s; {counts['ran']} ran, "
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


def coverage(folder):
    """Whether enough lines were run by the three backends together; prints what was not."""
    environment = {**os.environ, "COVERAGE_FILE": str(folder / ".coverage")}

    def call(*arguments):
        command = [sys.executable, "-m", "coverage", *arguments]
        return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode

    call("combine", "-q", str(folder))
    return call("report", "--skip-covered", "--show-missing", f"--fail-under={COVERAGE_FLOOR}") == 0


if __name__ == "__main__":
    sys.exit(main())
