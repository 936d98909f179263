"""A GGUF file with random weights, of a size that is not bundled, for timing.

    python benchmarks/peers/random_gguf.py 270m /tmp/270m_q8_0.gguf --dtype q8_0
    python benchmarks/peers/random_gguf.py gemma_2b_en /tmp/2b_bfloat16.gguf

The shape is one of shapes.py, else the name of a preset. A weight depends on its path alone, so that
files of two types hold the same model. One tensor at a time is in memory.
"""

import argparse
from pathlib import Path

import numpy as np
from shapes import SHAPES, both_branches

from keras_gemma.conversion.checkpoint import Source
from keras_gemma.conversion.gguf.checkpoint import save
from keras_gemma.presets import registry
from keras_gemma.presets.sizes import weight_shapes


def write(backbone: str, architecture: dict, path: Path, dtype: str) -> None:
    """Write a model whose weights are normal with a spread of 0.02, its norms 1."""
    shapes = weight_shapes(backbone, architecture)

    def read(weight):
        if weight.endswith("scale"):
            return np.zeros(shapes[weight], "float32")
        random = np.random.default_rng(list(weight.encode()))
        numbers = random.standard_normal(shapes[weight], dtype="float32")
        return np.multiply(numbers, np.float32(0.02), out=numbers)

    # llama.cpp asks for a tokenizer. The bundled one is; pieces that it lacks are made up.
    vocabulary = registry.folder("gemma_tiny_en") / "assets/tokenizer/vocabulary.spm"
    save(path, Source(backbone, architecture, dtype, read, vocabulary.read_bytes(), 8192))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", help="a shape of shapes.py, or the name of a preset")
    parser.add_argument("path", type=Path)
    parser.add_argument("--dtype", default="bfloat16", help="float32, bfloat16, q8_0 or q4_0")
    arguments = parser.parse_args()
    if shape := SHAPES.get(arguments.shape):
        backbone, architecture = "GemmaBackbone", both_branches(shape)
    else:
        card = registry.card(arguments.shape)
        backbone, architecture = card["backbone"], card["architecture"]
    write(backbone, architecture, arguments.path, arguments.dtype)
    print(f"{arguments.path}: {arguments.path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
