"""What a figure belongs to: a commit, a machine, and what else ran on it."""

import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (  # what kernels and compilers choose their instructions by
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
)


def processor() -> dict:
    """Its name, cores and flags, on Linux; elsewhere what Python knows."""
    found = {"name": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return found
    lines = [line.partition(":") for line in information.read_text().splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name", found["name"])
    return {**found, "name": name, "flags": [flag for flag in FLAGS if flag in flags]}


def origin() -> dict:
    """Date and commit; `+` where files were changed since."""
    described = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return {"commit": described.stdout.strip() or None, "date": time.strftime("%Y-%m-%d")}


def available_memory() -> int:
    """Bytes that a new process may take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))


def processor_seconds(process: int) -> float:
    """What a process has computed until now."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, numbers[11:13])) / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """What all cores have worked until now, for this machine or for others on the same host."""
    numbers = [*map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])]
    idle = numbers[3] + numbers[4]  # idle, and waiting for a disk
    return (sum(numbers[:8]) - idle) / os.sysconf("SC_CLK_TCK")
