"""Cross-entropy in chunks as PyTorch does it best: each chunk's logits become their gradient in place.

C tokens of a chunk, D model width, V vocabulary.
"""

import torch

# Parts in which a table of low precision gets its gradient, which is added up in float32.
_PARTS = 64
# Logits that several operations go through, one after the other, while the processor's cache has them.
_BLOCK = 2**18


class Sums(torch.autograd.Function):
    """What `cross_entropy` returns: the sum of losses, and of likeliest labels."""

    @staticmethod
    def forward(ctx, hidden_BTD, table_VD, labels_BT, weights_BT, cap, chunk):
        for_hidden, for_table = ctx.needs_input_grad[:2]
        loss = correct = hidden_BTD.new_zeros((), dtype=torch.float32)
        hidden_grads = []
        table_grad = torch.zeros_like(table_VD, dtype=torch.float32) if for_table else None
        for start in range(0, hidden_BTD.shape[1], chunk):
            part = slice(start, start + chunk)
            tokens = (x[:, part].flatten(0, 1) for x in (hidden_BTD, labels_BT, weights_BT))
            more_loss, more_correct, grad_CD = _chunk(
                table_VD, *tokens, cap, for_hidden, table_grad
            )
            loss, correct = loss + more_loss, correct + more_correct
            if for_hidden:
                hidden_grads.append(grad_CD.unflatten(0, (len(hidden_BTD), -1)))
        ctx.grads = torch.cat(hidden_grads, 1) if for_hidden else None, table_grad
        ctx.dtype = table_VD.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, _):
        if ctx.grads is None:
            raise RuntimeError("The gradient of this loss was taken already; compute it anew.")
        (hidden_grad, table_grad), ctx.grads = ctx.grads, None
        if hidden_grad is not None:
            hidden_grad = hidden_grad * upstream.to(hidden_grad.dtype)
        if table_grad is not None:
            # A GPU would have to be waited for before it could be asked.
            is_one = upstream.device.type == "cpu" and upstream == 1
            table_grad = (table_grad if is_one else table_grad.mul_(upstream)).to(ctx.dtype)
        return hidden_grad, table_grad, None, None, None, None


def _chunk(table_VD, hidden_CD, labels_C, weights_C, cap, for_hidden, table_grad):
    """The two sums of a chunk, and the gradient of the first for its hidden states; that for the table is added."""
    loss = correct = 0.0
    logits_CV = (hidden_CD @ table_VD.T).float()
    rows = len(logits_CV)
    step = max(1, _BLOCK // len(table_VD)) if logits_CV.device.type == "cpu" else rows
    for start in range(0, rows, step):
        block = (x[start : start + step] for x in (logits_CV, labels_C, weights_C))
        more_loss, more_correct = _slopes(*block, cap, for_hidden)
        loss, correct = loss + more_loss, correct + more_correct
    if not for_hidden:
        return loss, correct, None
    slope_CV = logits_CV.to(table_VD.dtype)
    if table_grad is not None:
        _add(table_grad, slope_CV, hidden_CD)
    return loss, correct, slope_CV @ table_VD


def _slopes(logits_CV, labels_C, weights_C, cap, for_hidden):
    """The two sums of a block of tokens, whose logits become the gradient of the first, if it is asked for."""
    if cap is not None:
        logits_CV.div_(cap).tanh_().mul_(cap)
    most_C1 = logits_CV.amax(1, keepdim=True)
    chosen_C = logits_CV.gather(1, labels_C[:, None])[:, 0]
    correct = weights_C @ (chosen_C >= most_C1[:, 0]).float()
    bend_CV = 1 - (logits_CV / cap).square_() if cap is not None and for_hidden else None
    slope_CV = logits_CV.sub_(most_C1).exp_()  # the same memory
    sum_C1 = slope_CV.sum(1, keepdim=True)
    loss = weights_C @ ((sum_C1.log() + most_C1)[:, 0] - chosen_C)
    if for_hidden:
        slope_CV.mul_(weights_C[:, None] / sum_C1)
        slope_CV.scatter_add_(1, labels_C[:, None], -weights_C[:, None])
        if bend_CV is not None:
            slope_CV.mul_(bend_CV)
    return loss, correct


def _add(grad_VD, slope_CV, hidden_CD):
    if hidden_CD.dtype == grad_VD.dtype:
        grad_VD.addmm_(slope_CV.T, hidden_CD)
        return
    for grad_RD, slope_CR in zip(grad_VD.chunk(_PARTS), slope_CV.chunk(_PARTS, 1)):
        grad_RD.add_(slope_CR.T @ hidden_CD)
