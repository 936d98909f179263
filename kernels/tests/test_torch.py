import dataclasses

import keras_gemma_kernels as kg
import numpy as np
import pytest
from conftest import assert_close
from examples import KINDS, SLOTS, empty_cache, example, walk

torch = pytest.importorskip("torch")

FLOAT = {"dtype": "float32"}
LENGTHS = [3, 5, 1, 1, 2, *[1] * 9]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def test_products_and_rows_equal_those_of_numpy(precision, random):
    weights, x = (random.standard_normal(shape, "float32") for shape in ((70, 37), (3, 37)))
    packed, plain = kg.pack(torch.from_numpy(weights), **precision), kg.pack(weights, **precision)
    assert isinstance(packed.data, torch.Tensor)
    np.testing.assert_array_equal(kg.linear(torch.from_numpy(x), packed), kg.linear(x, plain))
    ids = torch.tensor([[3, 69], [0, 3]])
    np.testing.assert_array_equal(kg.rows(packed, ids), kg.rows(plain, ids.numpy()))


def test_bfloat16_tensors_are_packed_as_they_are(random):
    weights = torch.from_numpy(random.standard_normal((40, 24), "float32")).bfloat16()
    packed = kg.pack(weights, "bfloat16")
    np.testing.assert_array_equal(kg.rows(packed, torch.arange(40)), weights.float())


def test_views_are_read_as_they_look(random):
    packed = kg.pack(random.standard_normal((40, 24), "float32"))
    x = torch.from_numpy(random.standard_normal((24, 3), "float32"))
    np.testing.assert_array_equal(kg.linear(x.T, packed), kg.linear(x.T.contiguous(), packed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_equals_that_of_numpy_and_writes_in_place(kind, precision):
    block, _ = example(kind, precision, array=torch.from_numpy)
    plain, _ = example(kind, precision)
    cache, plain_cache = (
        empty_cache(block.rules, 3, SLOTS, array) for array in (torch.from_numpy, np.asarray)
    )
    for x, index, segment in walk(3, LENGTHS):
        positions = torch.from_numpy(index), torch.from_numpy(segment)
        y, kept = kg.decoder_block(torch.from_numpy(x), positions, cache, block)
        awaited, _ = kg.decoder_block(x, (index, segment), plain_cache, plain)
        np.testing.assert_array_equal(y, awaited)
        assert kept is cache
    for part, plain_part in zip(cache, plain_cache, strict=True):
        np.testing.assert_array_equal(part, plain_part)


def test_a_bfloat16_cache_is_taken():
    block, reference = example("gemma 1, one key head", FLOAT, array=torch.from_numpy)
    cache = empty_cache(block.rules, 1, SLOTS, torch.from_numpy)
    cache = (cache[0].bfloat16(), cache[1].bfloat16(), *cache[2:])
    for x, index, segment in walk(1, LENGTHS):
        positions = torch.from_numpy(index), torch.from_numpy(segment)
        y, _ = kg.decoder_block(torch.from_numpy(x), positions, cache, block)
        assert_close(y, reference(x, index, segment), 1e-2)


def test_any_number_of_threads_gives_the_same(precision, random):
    packed = kg.pack(torch.from_numpy(random.standard_normal((5000, 640), "float32")), **precision)
    x = torch.from_numpy(random.standard_normal((2, 640), "float32"))
    before = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(kg.linear(x, packed))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_bad_input_is_an_error_of_python():
    block, _ = example("gemma 1, one key head", FLOAT, array=torch.from_numpy)
    cache = empty_cache(block.rules, 1, SLOTS, torch.from_numpy)
    x, index, segment = map(torch.from_numpy, next(walk(1, [1])))
    with pytest.raises(ValueError, match="x is torch.bfloat16; .* cast it"):
        kg.linear(x.bfloat16(), block.qkv)
    with pytest.raises(ValueError, match=r"not \[..., 48\]"):
        kg.linear(x[..., :40], block.qkv)
    with pytest.raises(ValueError, match="not what pack made"):
        kg.linear(x, dataclasses.replace(block.qkv, data=block.qkv.data[:, :-1]))
    with pytest.raises(ValueError, match="segment: torch.int64"):
        kg.decoder_block(x, (index, segment.long()), cache, block)
    with pytest.raises(ValueError, match="on meta; the kernels run on the CPU"):
        kg.linear(x.to("meta"), block.qkv)
    meta = dataclasses.replace(block.qkv, data=block.qkv.data.to("meta"))
    with pytest.raises(ValueError, match="on the CPU, not on meta"):
        kg.linear(x, meta)
    with pytest.raises(ValueError, match="contiguous, and on the CPU"):
        kg.decoder_block(x, (index, segment), (cache[0].to("meta"), *cache[1:]), block)
    with pytest.raises(IndexError, match=r"-1\.\.2"):
        kg.rows(block.qkv, torch.tensor([2, -1]))
    with torch.inference_mode(False), pytest.raises(ValueError, match="have no gradients"):
        kg.linear(torch.ones(1, 48, requires_grad=True), block.qkv)
