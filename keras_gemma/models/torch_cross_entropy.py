"""Cross-entropy in chunks as PyTorch does it best: each chunk's logits become their gradient in place.

C tokens of a chunk, D model width, V vocabulary.
"""

import torch

# Parts in which a table of low precision gets its gradient, which is added up in float32.
_PARTS = 64


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
            hidden_CD = hidden_BTD[:, part].flatten(0, 1)
            labels_C, weights_C = labels_BT[:, part].flatten(), weights_BT[:, part].flatten()
            logits_CV = (hidden_CD @ table_VD.T).float()
            if cap is not None:
                logits_CV.div_(cap).tanh_().mul_(cap)
            most_C1 = logits_CV.amax(1, keepdim=True)
            chosen_C = logits_CV.gather(1, labels_C[:, None])[:, 0]
            correct = correct + weights_C @ (chosen_C >= most_C1[:, 0]).float()
            bend_CV = 1 - (logits_CV / cap).square_() if cap is not None and for_hidden else None
            slope_CV = logits_CV.sub_(most_C1).exp_()  # the same memory
            sum_C1 = slope_CV.sum(1, keepdim=True)
            loss = loss + weights_C @ ((sum_C1.log() + most_C1)[:, 0] - chosen_C)
            if not for_hidden:
                continue
            slope_CV.mul_(weights_C[:, None] / sum_C1)
            slope_CV.scatter_add_(1, labels_C[:, None], -weights_C[:, None])
            if bend_CV is not None:
                slope_CV.mul_(bend_CV)
            slope_CV = slope_CV.to(table_VD.dtype)
            hidden_grads.append((slope_CV @ table_VD).unflatten(0, (len(hidden_BTD), -1)))
            if for_table:
                _add(table_grad, slope_CV, hidden_CD)
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
            table_grad = table_grad.mul_(upstream).to(ctx.dtype)
        return hidden_grad, table_grad, None, None, None, None


def _add(grad_VD, slope_CV, hidden_CD):
    if hidden_CD.dtype == grad_VD.dtype:
        grad_VD.addmm_(slope_CV.T, hidden_CD)
        return
    for grad_RD, slope_CR in zip(grad_VD.chunk(_PARTS), slope_CV.chunk(_PARTS, 1)):
        grad_RD.add_(slope_CR.T @ hidden_CD)
