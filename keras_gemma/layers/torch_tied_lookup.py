"""`tied_lookup` as PyTorch does it."""

import torch


class TiedLookup(torch.autograd.Function):
    """Ids BT and a table VD to vectors BTD and the table."""

    @staticmethod
    def forward(ctx, ids_BT, table_VD):
        ctx.save_for_backward(ids_BT)
        return torch.nn.functional.embedding(ids_BT, table_VD), table_VD.view_as(table_VD)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, vectors_BTD, grad_VD):
        # Nothing else holds that gradient: it was made for this one reader of the table.
        (ids_BT,) = ctx.saved_tensors
        return None, grad_VD.index_add_(0, ids_BT.flatten(), vectors_BTD.flatten(0, -2))
