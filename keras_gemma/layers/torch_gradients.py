"""Operations of layers whose gradients PyTorch computes with less memory, and less time, than it would by itself.

B batch, T tokens, D model width, V vocabulary.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, gelu


class TiedLookup(torch.autograd.Function):
    """`tied_lookup`: ids BT and a table VD to vectors BTD and the table."""

    @staticmethod
    def forward(ctx, ids_BT, table_VD):
        ctx.save_for_backward(ids_BT)
        return embedding(ids_BT, table_VD), table_VD.view_as(table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx, vectors_BTD, grad_VD):
        # Nothing else holds that gradient: it was made for this one reader of the table.
        (ids_BT,) = ctx.saved_tensors
        return None, grad_VD.index_add_(0, ids_BT.flatten(), vectors_BTD.flatten(0, -2))


class GatedGelu(torch.autograd.Function):
    """`gated_gelu`: a gate and a value of one shape to `gelu(gate) * value`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gate, value):
        return gelu(gate, approximate="tanh").mul_(value)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, upstream):
        gate, value = ctx.saved_tensors
        slope = torch.ops.aten.gelu_backward(upstream * value, gate, approximate="tanh")
        return slope, gelu(gate, approximate="tanh") * upstream


class Normalize(torch.autograd.Function):
    """`normalize`: vectors …D, a scale D and an epsilon to float32 vectors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, scale, epsilon):
        wide = x.float()
        return (wide * _inverse(wide, epsilon)).mul_(1 + scale.float())

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scale, ctx.epsilon = inputs
        ctx.save_for_backward(x, scale)

    @staticmethod
    def backward(ctx, upstream):
        x, scale = ctx.saved_tensors
        wide = x.float()
        inverse = _inverse(wide, ctx.epsilon)
        normed = wide * inverse
        scale_grad = None
        if ctx.needs_input_grad[1]:
            scale_grad = (upstream * normed).flatten(0, -2).sum(0).to(scale.dtype)
        slope = upstream * (1 + scale.float())
        along = (slope * normed).mean(-1, keepdim=True)
        return ((slope - normed * along) * inverse).to(x.dtype), scale_grad, None


def _inverse(wide, epsilon):
    return (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt()
