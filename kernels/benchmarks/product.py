"""GB/s of each product at Gemma 270m's shapes, beside what the machine reads at all.

One pinned thread, CPU time, weights cold: as many copies of a matrix as make 256 MB are multiplied one
after another. Rounds of the read limit and of all products are interleaved; medians are written.

    python benchmarks/product.py --rows 1 4 8 --isa avx512 vnni avx2 --out product.json
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import keras_gemma_kernels as kg
import numpy as np
from keras_gemma_kernels import _native
from keras_gemma_kernels.memory import aligned
from keras_gemma_kernels.packed import data_shape

SHAPES = {
    "qkv": (640, 1536),
    "gate+up": (640, 4096),
    "down": (2048, 640),
    "out": (1024, 640),
    "head": (640, 256_000),
}
PRECISIONS = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "int8_channel": "int8",
    "int4": "int4",
}
COLD = 600 << 20  # bytes, beyond the largest last-level caches (260 MB)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    wanted = {"avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"}
    return {
        "name": names[0] if names else platform.processor(),
        "flags": sorted(wanted & set(flags)),
    }


def pin():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def timed(call, *arguments):
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def copies(dtype, inputs, outputs, random):
    """One matrix, then others whose memory is elsewhere; their numbers do not matter to speed."""
    values = random.standard_normal((outputs, inputs), "float32") * 0.02
    block = None if dtype == "int8_channel" else 32
    first = kg.pack(values, PRECISIONS[dtype], block=block)
    count = max(1, COLD // first.nbytes)
    matrices = [first]
    for _ in range(count - 1):
        data = aligned(first.data.shape)
        data[:] = first.data
        matrices.append(kg.Packed(data, first.dtype, first.shape))
    return matrices


def multiply_all(x, matrices, y):
    # By pointer, as the FFI does it: NumPy's face would add some 5 us to products of 20.
    call = _native.library().kg_linear
    pointers = x.ctypes.data, len(x), y.ctypes.data, None, None, 1
    for packed in matrices:
        call(ctypes.byref(packed.native), *pointers)


def measure(arguments):
    random = np.random.default_rng(0)
    read = aligned((COLD,)).view("float32")
    read[:] = 1
    limit = ctypes.CDLL(str(_native.FILE)).kg_read
    limit.argtypes, limit.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_float
    results = []
    for shape in arguments.shapes:
        inputs, outputs = SHAPES[shape]
        for dtype in arguments.dtypes:
            matrices = copies(dtype, inputs, outputs, random)
            for rows in arguments.rows:
                x = random.standard_normal((rows, inputs), "float32")
                y = np.empty((rows, outputs), "float32")
                times = {isa: [] for isa in arguments.isa}
                limits = []
                for _ in range(arguments.rounds + 1):
                    for isa in arguments.isa:
                        _native.use(isa)
                        times[isa].append(timed(multiply_all, x, matrices, y))
                    limits.append(timed(limit, read.ctypes.data, read.nbytes))
                bytes_ = sum(int(np.prod(data_shape(p.dtype, *p.shape))) for p in matrices)
                gb_read = read.nbytes / statistics.median(limits[1:]) / 1e9
                for isa, taken in times.items():
                    gb = bytes_ / statistics.median(taken[1:]) / 1e9
                    results.append(
                        {
                            "shape": shape,
                            "dtype": dtype,
                            "rows": rows,
                            "isa": isa,
                            "gb_per_s": round(gb, 2),
                            "read_limit_gb_per_s": round(gb_read, 2),
                            "share": round(gb / gb_read, 3),
                            "us": round(statistics.median(taken[1:]) / len(matrices) * 1e6, 2),
                        }
                    )
                    print(*results[-1].values(), sep="\t", flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--rows", nargs="+", type=int, default=[1])
    parser.add_argument("--isa", nargs="+", default=[_native.isas()[-1]], choices=_native.isas())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pin()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    report = {
        "command": " ".join(sys.argv),
        "processor": processor(),
        "version": kg.__version__,
        "load_before": load,
        "results": measure(arguments),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
