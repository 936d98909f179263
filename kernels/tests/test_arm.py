import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[1]
COMPILER = shutil.which("aarch64-linux-gnu-g++") or shutil.which("aarch64-linux-gnu-g++-12")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs a compiler for aarch64 and qemu")
def test_neon_agrees_with_portable_code_on_an_emulated_processor(tmp_path):
    x86 = ("avx", "vnni", "xla", "c_api", "read_limit")
    sources = [
        f for f in (KERNELS / "src").glob("*.cpp") if not any(word in f.name for word in x86)
    ]
    objects = []
    for source in [*sources, KERNELS / "tests" / "native" / "same.cpp"]:
        flags = ["-march=armv8.2-a+dotprod"] if "dotprod" in source.name else []
        objects.append(tmp_path / f"{source.stem}.o")
        flags += ["-std=c++17", "-O2", "-I", KERNELS / "src", "-c", source, "-o", objects[-1]]
        subprocess.run([COMPILER, *flags], check=True)
    subprocess.run([COMPILER, "-static", *objects, "-o", tmp_path / "same"], check=True)
    done = subprocess.run(
        [EMULATOR, tmp_path / "same"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "dotprod" in done.stdout
