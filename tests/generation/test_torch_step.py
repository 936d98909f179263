"""What is made of a traced step of PyTorch: the same numbers, by fewer operations."""

import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("steps are traced on PyTorch", allow_module_level=True)

import torch

from keras_gemma.generation.torch_step import traced, written_inputs


def operations(module):
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def test_what_is_alike_is_done_once():
    def twice(x):
        return torch.cos(x) + 1, torch.cos(x) + 1.5, torch.cos(x + 1)

    module = traced(twice, (torch.arange(3.0),))
    assert operations(module).count(torch.ops.aten.cos.default) == 2
    for got, expected in zip(module(torch.ones(3)), twice(torch.ones(3))):
        assert torch.equal(got, expected)


def test_a_number_is_not_another_one_of_its_value():
    x = torch.arange(3)
    module = traced(lambda x: (x * 2, x * 2.0), (x,))
    assert [made.dtype for made in module(x)] == [torch.int64, torch.float32]


def test_what_depends_on_no_input_is_known():
    module = traced(lambda x: x + torch.arange(4) * torch.tensor(3), (torch.zeros(4),))
    assert operations(module) == [torch.ops.aten.add.Tensor]
    assert module(torch.ones(4)).tolist() == [1, 4, 7, 10]


def test_what_is_read_before_a_write_is_not_what_is_read_after():
    place, one = torch.tensor([1]), torch.tensor([5.0])

    def step(there, x):
        before = there * 2
        there = there.index_put_((place,), one)
        return before + x, there * 2 + x

    start = torch.tensor([1.0, 2.0])
    module = traced(step, (start.clone(), torch.zeros(2)))
    before, after = module(start, torch.zeros(2))
    assert (before.tolist(), after.tolist()) == ([2, 4], [2, 10])
    assert start.tolist() == [1, 5]
    assert written_inputs(module) == [0]


def test_a_step_that_writes_to_more_than_its_inputs_is_left_as_it_is():
    def step(x):
        made = torch.zeros(3)
        made.add_(x)
        return made * 2 + made * 2

    module = traced(step, (torch.ones(3),))
    assert operations(module).count(torch.ops.aten.mul.Tensor) == 2
    assert module(torch.full((3,), 2.0)).tolist() == [8, 8, 8]


def test_draws_are_drawn_each_time():
    module = traced(lambda x: torch.rand_like(x) - torch.rand_like(x), (torch.ones(100),))
    assert module(torch.ones(100)).abs().max() > 0


def test_new_values_of_a_weight_are_seen():
    weight = torch.ones(2)
    module = traced(lambda x: x + weight * 2, (torch.zeros(2),), [weight])
    weight.fill_(4)
    assert module(torch.zeros(2)).tolist() == [8, 8]


def test_what_is_handed_out_belongs_to_whoever_gets_it():
    module = traced(lambda x: (torch.zeros(2), x + 1), (torch.ones(2),))
    module(torch.ones(2))[0].fill_(7)
    assert module(torch.ones(2))[0].tolist() == [0, 0]
