"""A step of PyTorch as a graph of plain tensor operations, in which nothing is done twice.

A Keras layer costs some 50 microseconds a call, far more than a small product. A step is traced through the
very layers of the model, and runs without them after. What layers have in common, the angles of positions
say, and what depends on no input is computed once.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx


def traced(function: Callable, arguments: tuple, weights: Iterable = ()) -> GraphModule:
    """`function` for arguments of these shapes.

    What it writes to in place must be among the arguments. `weights` are tensors that need not be: they are
    captured by reference, so that new values are seen, and new tensors need another trace.
    """
    # A plain function: the tracer counts a method's self among its arguments.
    module = make_fx(lambda *arguments: function(*arguments))(*arguments)
    graph = module.graph
    if _is_orderly(graph):
        _fold(module, {_memory(tensor) for tensor in weights})
        _share(graph)
        graph.eliminate_dead_code(is_impure_node=lambda node: not _is_pure(node))
        graph.lint()
        module.recompile()
    return module


def written_inputs(module: GraphModule) -> list[int]:
    """The numbers of the arrays, among all arguments', that a traced step writes to in place."""
    nodes = module.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    return sorted({inputs.index(_origin(node.args[0])) for node in nodes if _writes(node)})


def _is_orderly(graph):
    """Whether nothing but inputs is written to, so that all else keeps its numbers."""
    return all(_origin(node.args[0]).op == "placeholder" for node in graph.nodes if _writes(node))


def _origin(node):
    """What a node that was written to in place is: the input, through the writes before."""
    while _writes(node):
        node = node.args[0]
    return node


def _writes(node):
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_pure(node):
    if node.op != "call_function":
        return node.op == "get_attr"
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    draws = torch.Tag.nondeterministic_seeded in node.target.tags
    return not node.target._schema.is_mutable and not draws


def _fold(module, weights):
    """Compute at once what depends on no input and no weight: Python's numbers as tensors, ranges."""
    graph, known = module.graph, {}
    for node in [*graph.nodes]:
        if node.op == "get_attr":
            tensor = getattr(module, node.target)
            if _memory(tensor) not in weights:
                known[node] = tensor
            continue
        ready = all(x in known for x in node.all_input_nodes)
        if node.op == "call_function" and _is_pure(node) and ready:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    names: dict[Any, str] = {}
    for node, value in known.items():
        inner = all(user in known for user in node.users)
        if inner or any(user.op == "output" for user in node.users):  # who gets it may write to it
            continue
        flat = value.reshape(-1).cpu().view(torch.uint8).numpy().tobytes()
        name = names.setdefault(
            (value.shape, value.dtype, value.device, flat), f"_folded_{len(names)}"
        )
        if not hasattr(module, name):
            module.register_buffer(name, value.clone())  # a view would keep all of its base
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(name))


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()


def _share(graph):
    """Let operations that are alike be one."""
    seen: dict[Any, Node] = {}
    writes: dict[
        Node, int
    ] = {}  # to each input so far: what was read before isn't what is read after
    for node in [*graph.nodes]:
        if _writes(node):
            origin = _origin(node.args[0])
            writes[origin] = writes.get(origin, 0) + 1
        elif node.op == "get_attr" or (node.op == "call_function" and _is_pure(node)):
            ages = tuple(writes.get(_origin(x), 0) for x in node.all_input_nodes)
            key = node.op, node.target, _hashable(node.args), _hashable(node.kwargs), ages
            if key in seen:
                node.replace_all_uses_with(seen[key])
                graph.erase_node(node)
            else:
                seen[key] = node


def _hashable(argument):
    if isinstance(argument, (list, tuple)):
        return tuple(map(_hashable, argument))
    if isinstance(argument, dict):
        return tuple((name, _hashable(x)) for name, x in sorted(argument.items()))
    # 1, 1.0 and True are equal, and are not the same to an operation.
    return type(argument), argument
