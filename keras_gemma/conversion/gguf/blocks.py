"""GGUF's block formats: a few dozen numbers that share a scale, as bytes and back.

B blocks, N numbers of one block. A block's first bytes are its scale, in float16; layouts are
those of ggml's `block_q8_0` and so on, and the arithmetic is its reference quantizer's, in
float32, so that the bytes come out equal.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CHUNK = 2**20  # numbers that are worked on together, which bounds the memory beside the result


class BlockFormat(NamedTuple):
    """One format: sizes of a block, and the functions between bytes (B, size) and numbers (B, N)."""

    numbers: int
    size: int  # bytes
    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray] | None = None
    largest: float = 0.0  # number that can be encoded: beyond it the scale is infinite


def dequantize(name: str, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Numbers of blocks, as float32.

    Args:
        name: the format, such as `"Q8_0"`.
        raw: bytes of whole blocks, flat.
        out: where to put them; a contiguous float32 array of as many numbers.

    >>> dequantize("Q8_0", quantize("Q8_0", np.full(32, 0.5, "float32")))[:2].tolist()
    [0.499969482421875, 0.499969482421875]
    """
    block = BLOCKS[name]
    raw = raw.reshape(-1, block.size)
    if out is None:
        out = np.empty(len(raw) * block.numbers, "float32")
    flat, step = out.reshape(-1), CHUNK // block.numbers
    with np.errstate(all="ignore"):  # a damaged scale may be infinite; who loads looks for that
        for first in range(0, len(raw), step):
            made = block.decode(raw[first : first + step]).reshape(-1)
            flat[first * block.numbers :][: made.size] = made
    return out


def quantize(name: str, array: np.ndarray) -> np.ndarray:
    """Bytes of the blocks of an array, flat; its size must be a multiple of a block's."""
    block = BLOCKS[name]
    if block.encode is None:
        raise ValueError(f"{name} is read only; written are {', '.join(WRITTEN)}.")
    flat = array.reshape(-1, block.numbers)
    raw, step = np.empty((len(flat), block.size), "uint8"), CHUNK // block.numbers
    with np.errstate(all="ignore"):  # of the reciprocal of a scale that is nearly zero
        for first in range(0, len(flat), step):
            chunk = flat[first : first + step].astype("float32", copy=False)
            raw[first : first + step] = block.encode(chunk)
    return raw.reshape(-1)


def _scale(raw, at=0):
    """The float16 at a place of each block, as float32 (B, 1)."""
    return raw[:, at : at + 2].copy().view("<f2").astype("float32")


def _halves(raw):
    """Numbers of four bits: first the low halves of all bytes, then the high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _with_scale(scale_B1, rest):
    return np.concatenate([scale_B1.astype("<f2").view("uint8"), rest], axis=1)


def _reciprocal(scale_B1):
    return np.where(scale_B1 == 0, np.float32(0), 1 / scale_B1)


def _decode_q8_0(raw):
    return _scale(raw) * raw[:, 2:].view("int8")


def _encode_q8_0(x_BN):
    scale_B1 = np.abs(x_BN).max(axis=1, keepdims=True) / np.float32(127)
    y_BN = x_BN * _reciprocal(scale_B1)
    whole_BN = np.trunc(y_BN)
    whole_BN += np.sign(y_BN) * (np.abs(y_BN - whole_BN) >= 0.5)  # halves go away from zero
    return _with_scale(scale_B1, whole_BN.astype("int8").view("uint8"))


def _decode_q4_0(raw):
    return _scale(raw) * (_halves(raw[:, 2:]).view("int8") - np.int8(8))


def _encode_q4_0(x_BN):
    largest = np.abs(x_BN).argmax(axis=1)[:, None]
    # The number farthest from zero becomes -8, whatever its sign: there is no +8.
    scale_B1 = np.take_along_axis(x_BN, largest, axis=1) / np.float32(-8)
    whole_BN = np.trunc(x_BN * _reciprocal(scale_B1) + np.float32(8.5))
    code_BN = np.minimum(whole_BN.astype("uint8"), 15)
    return _with_scale(scale_B1, code_BN[:, :16] | code_BN[:, 16:] << 4)


def _decode_q5_0(raw):
    fifth_BN = np.unpackbits(raw[:, 2:6], axis=1, bitorder="little")
    code_BN = _halves(raw[:, 6:]) | fifth_BN << 4
    return _scale(raw) * (code_BN.view("int8") - np.int8(16))


def _decode_q4_k(raw):
    """Eight parts of 32 numbers, each with a scale and a minimum of six bits."""
    low, high, mixed = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([low & 63, mixed & 15 | low >> 6 << 4], axis=1)
    minima = np.concatenate([high & 63, mixed >> 4 | high >> 6 << 4], axis=1)
    codes = _halves(raw[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    scales, minima = _scale(raw) * scales, _scale(raw, 2) * minima
    return scales[:, :, None] * codes - minima[:, :, None]


def _decode_q6_k(raw):
    """Sixteen parts of 16 numbers: four low bits, two high bits, and a scale of eight."""
    low = _halves(raw[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], "uint8")[:, None]
    codes = (low | (high & 3) << 4).view("int8") - np.int8(32)
    scales = _scale(raw, 208) * raw[:, 192:208].view("int8")
    return scales[:, :, None] * codes.reshape(-1, 16, 16)


_HALF = float(np.finfo("float16").max)
BLOCKS = {
    "Q8_0": BlockFormat(32, 34, _decode_q8_0, _encode_q8_0, largest=127 * _HALF),
    "Q4_0": BlockFormat(32, 18, _decode_q4_0, _encode_q4_0, largest=8 * _HALF),
    "Q5_0": BlockFormat(32, 22, _decode_q5_0),
    "Q4_K": BlockFormat(256, 144, _decode_q4_k),
    "Q6_K": BlockFormat(256, 210, _decode_q6_k),
}
WRITTEN = [name for name, block in BLOCKS.items() if block.encode]
