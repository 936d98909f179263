"""A step that memory is too small for; a limit on the process stands for the end of memory."""

import contextlib
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import SIZES

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaTextEmbedder, device_memory
from keras_gemma.models import step_memory
from keras_gemma.models.step_memory import StepMemory
from keras_gemma.out_of_memory import OutOfMemoryError, is_out_of_memory

HEADROOM = 2**31
WIDE = {**SIZES, "num_layers": 1, "intermediate_dim": 2**18}  # half a MB for a token


@contextlib.contextmanager
def little_memory():
    """Within it this process may take so much more address space."""
    resource = pytest.importorskip("resource", reason="limits of POSIX on a process")
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def batch(rows, length):
    ids = np.ones((rows, length), "int32")
    return {"token_ids": ids, "padding_mask": ids}, ids


def model(**compiled):
    made = GemmaCausalLM(GemmaBackbone(**SIZES))
    made.compile(**compiled)
    return made


def test_a_step_without_room_is_warned_of_and_explained():
    m = GemmaCausalLM(GemmaBackbone(**WIDE))
    m.fit(*batch(2, 8), verbose=0)
    before = m.get_weights()
    with little_memory():
        assert device_memory.free() <= HEADROOM
        with (
            pytest.warns(UserWarning, match="by estimate. 2.* GB are free. It fits with .*may end"),
            pytest.raises(OutOfMemoryError) as raised,
        ):
            m.fit(*batch(128, 128), batch_size=128, verbose=0)
    assert "A step of 128 x 128 tokens takes" in str(raised.value)
    assert is_out_of_memory(raised.value.__cause__)
    if keras.backend.backend() == "jax":  # has been given the weights to write over
        assert "The weights are lost with the step: load the model anew." in str(raised.value)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.fit(*batch(2, 8), verbose=0, epochs=0)
    for kept, now in zip(before, m.get_weights()):
        np.testing.assert_allclose(now, kept, rtol=1e-5)  # TensorFlow's decay waits for nothing


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.1])
def test_what_is_advised_fits(share, monkeypatch):
    needed = StepMemory(model(), 8, 256).needed
    monkeypatch.setattr(device_memory, "free", lambda: int(share * needed))
    step = StepMemory(model(), 8, 256)
    assert step.is_too_large
    advice = step.smallest_change
    rows = int(found[1]) if (found := re.search(r"batch_size=(\d+)", advice)) else 8
    length = int(found[1]) if (found := re.search(r"rows of (\d+)", advice)) else 256
    changed = StepMemory(model(remat="remat=True" in advice), rows, length)
    assert not changed.is_too_large, advice
    if length == 256 and "remat" not in advice:
        assert StepMemory(model(), rows + 1, 256).is_too_large


def test_pairs_are_counted_as_batch_size_counts_them(monkeypatch):
    embedder = GemmaTextEmbedder(GemmaBackbone(**SIZES))
    needed = StepMemory(embedder, 16, 256, 2).needed
    monkeypatch.setattr(device_memory, "free", lambda: needed // 2)
    advice = StepMemory(embedder, 16, 256, 2).smallest_change
    assert int(re.search(r"batch_size=(\d+)", advice)[1]) < 4


def test_where_no_batch_fits_other_ways_are_named(monkeypatch):
    monkeypatch.setattr(device_memory, "free", lambda: 1000)
    m = model()
    assert "enable_lora(rank=8)" in StepMemory(m, 8, 256).smallest_change
    m.backbone.enable_lora(2)
    m.compile()
    assert 'quantize("int8")' in StepMemory(m, 8, 256).smallest_change


def test_nothing_is_said_where_nothing_is_known(monkeypatch):
    monkeypatch.setattr(device_memory, "free", lambda: None)
    assert not StepMemory(model(), 8, 256).is_too_large
    monkeypatch.setattr(device_memory, "free", lambda: 1)
    assert not StepMemory(model(), 0, 0).is_too_large
    assert "Lower batch_size" in str(StepMemory(model(), 0, 0))
    unknown = keras.utils.PyDataset()
    assert step_memory._shape(unknown, None) == (0, 0)
    assert step_memory._shape(batch(100, 8)[0], None) == (32, 8)


@pytest.mark.parametrize(
    "error, is_so",
    [
        (MemoryError(), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            True,
        ),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("a model that is out of memory"), False),
    ],
)
def test_errors_for_want_of_memory_are_known_by_what_they_say(error, is_so):
    assert is_out_of_memory(error) == is_so
