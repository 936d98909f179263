"""PyTorch's files, written without it."""

import ml_dtypes
import numpy as np
import pytest

from keras_gemma.conversion.gemma_pytorch import torch_writer
from keras_gemma.conversion.gemma_pytorch.torch_file import TorchTensors
from keras_gemma.conversion.gemma_pytorch.torch_writer import write_torch
from keras_gemma.conversion.tensors import Writable

pytestmark = pytest.mark.once

EXTRA = {"config": {"a": 1, "b": [1.5, None, True], "large": 2**40, "below": -5, "text": "é"}}


def arrays():
    random = np.random.default_rng(0)
    kinds = ("float32", "float16", ml_dtypes.bfloat16)
    found = {f"{i}.weight": random.normal(size=(i + 1, 3)).astype(k) for i, k in enumerate(kinds)}
    return {**found, "norm": np.arange(5, dtype="float32"), "one": np.float32(2.5).reshape(())}


def writables(found):
    return [Writable(k, a.shape, a.dtype.name, lambda a=a: a) for k, a in found.items()]


@pytest.mark.parametrize("large", [False, True])
def test_pytorch_reads_it_mapped_and_not(tmp_path, monkeypatch, large):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if large:  # every member as one of a file beyond 4 GB
        monkeypatch.setattr(torch_writer, "_LARGE", -1)
    path = tmp_path / "gemma.ckpt"
    write_torch(path, writables(arrays()), EXTRA)
    for mmap in (False, True):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert found["config"] == EXTRA["config"]
        assert list(found["model_state_dict"]) == list(arrays())
        for name, array in arrays().items():
            tensor = found["model_state_dict"][name]
            assert str(tensor.dtype) == f"torch.{array.dtype.name}"
            assert np.array_equal(tensor.float().numpy(), array.astype("float32"))
            assert not mmap or tensor.data_ptr() % 64 == 0


def test_there_and_back_is_the_same(tmp_path):
    path = tmp_path / "gemma.ckpt"
    write_torch(path, writables(arrays()), EXTRA)
    found = TorchTensors(path)
    assert found.extra == EXTRA
    for name, array in arrays().items():
        assert np.array_equal(found.read(name), array)
        assert found.read(name).dtype == array.dtype


def test_numbers_are_asked_for_one_tensor_at_a_time(tmp_path):
    asked = []

    def numbers(name, array):
        asked.append(name)
        assert (tmp_path / "a.ckpt").exists() is False
        return array

    tensors = (
        Writable(name, array.shape, array.dtype.name, lambda n=name, a=array: numbers(n, a))
        for name, array in arrays().items()
    )
    write_torch(tmp_path / "a.ckpt", tensors)
    assert asked == list(arrays())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "gemma.ckpt"
    path.write_bytes(b"old")

    def fail():
        raise OSError("disk full")

    tensors = [*writables(arrays()), Writable("x", (3,), "float32", fail)]
    with pytest.raises(OSError, match="disk full"):
        write_torch(path, tensors)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["gemma.ckpt"]
