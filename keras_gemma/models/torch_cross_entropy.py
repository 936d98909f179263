"""Cross-entropy in chunks as PyTorch does it best: each chunk's logits become their gradient in place.

C tokens of a chunk, D model width, V vocabulary, of which R are one of P pieces.
"""

import torch


class Sums(torch.autograd.Function):
    """What `cross_entropy` returns: the sum of losses, and of likeliest labels."""

    @staticmethod
    def forward(ctx, hidden_BTD, table_VD, labels_BT, weights_BT, cap, chunk, at_once):
        for_hidden, for_table = ctx.needs_input_grad[:2]
        loss = correct = hidden_BTD.new_zeros((), dtype=torch.float32)
        hidden_grads = []
        table_grad = torch.zeros_like(table_VD, dtype=torch.float32) if for_table else None
        for start in range(0, hidden_BTD.shape[1], chunk):
            part = slice(start, start + chunk)
            tokens = (x[:, part].flatten(0, 1) for x in (hidden_BTD, labels_BT, weights_BT))
            more_loss, more_correct, grad_CD = _chunk(
                table_VD, *tokens, cap, at_once, for_hidden, table_grad
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
        return hidden_grad, table_grad, *(None for _ in range(5))


def _chunk(table_VD, hidden_CD, labels_C, weights_C, cap, at_once, for_hidden, table_grad):
    """The two sums of a chunk, and the gradient of the first for its hidden states; that for the table is added.

    All logits are made before the first slope: it needs the sum over them.
    """
    rows = max(1, at_once // len(hidden_CD))
    pieces = [(start, table_VD[start : start + rows]) for start in range(0, len(table_VD), rows)]
    kept, sums, tops, chosen_C = [], [], [], 0.0
    for start, table_RD in pieces:
        logits_CR = (hidden_CD @ table_RD.T).float()
        if cap is not None:
            logits_CR.div_(cap).tanh_().mul_(cap)
        place_C1, is_here_C = _place(labels_C, start, logits_CR)
        chosen_C = torch.where(is_here_C, logits_CR.gather(1, place_C1)[:, 0], chosen_C)
        tops.append(logits_CR.amax(1))
        # In place: a slope is one of these, scaled. Under a cap it takes the logits, too.
        below_CR = logits_CR.sub_ if cap is None else logits_CR.sub
        sums.append(below_CR(tops[-1][:, None]).exp_().sum(1))
        if for_hidden:
            kept.append(logits_CR)
    top_PC = torch.stack(tops)
    most_C, sum_C = top_PC.amax(0), (torch.stack(sums).log_() + top_PC).logsumexp(0)
    loss, correct = weights_C @ (sum_C - chosen_C), weights_C @ (chosen_C >= most_C).float()
    if not for_hidden:
        return loss, correct, None
    hidden_grad = torch.zeros_like(hidden_CD, dtype=torch.float32)
    for start, table_RD in pieces:
        slope_CR, top_C = kept.pop(0), tops.pop(0)
        if cap is not None:
            bend_CR = 1 - (slope_CR / cap).square_()
            slope_CR.sub_(top_C[:, None]).exp_()
        slope_CR.mul_(((top_C - sum_C).exp_() * weights_C)[:, None])
        place_C1, is_here_C = _place(labels_C, start, slope_CR)
        slope_CR.scatter_add_(1, place_C1, torch.where(is_here_C, -weights_C, 0.0)[:, None])
        if cap is not None:
            slope_CR.mul_(bend_CR)
        slope_CR = slope_CR.to(table_VD.dtype)
        _add(hidden_grad, slope_CR, table_RD)
        if table_grad is not None:
            _add(table_grad[start : start + len(table_RD)], slope_CR.T, hidden_CD)
    return loss, correct, hidden_grad.to(hidden_CD.dtype)


def _place(labels_C, start, logits_CR):
    """Where a label stands in a piece, `C1`, and whether it does."""
    place_C = labels_C - start
    last = logits_CR.shape[1] - 1
    return place_C.clamp(0, last)[:, None], (place_C >= 0) & (place_C <= last)


def _add(total, a, b):
    if a.dtype == total.dtype:
        total.addmm_(a, b)
        return
    total.add_(a @ b)
