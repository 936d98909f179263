"""Shapes and dtypes compared before anything reaches the library, which would read what is not there.

`types` are a framework's own `(float32, bfloat16, int32)`: in PyTorch, whose steps are not compiled, names
of dtypes would cost more than the whole call.
"""


def check_rows(name, x, width, types, leading=None):
    """x must be float32 [..., width]; `leading` are the axes before, where they are known."""
    if x.dtype != types[0]:
        raise ValueError(f"{name} is {x.dtype}; the kernels take float32 activations: cast it.")
    if x.ndim < 1 or x.shape[-1] != width or (leading and x.shape[:-1] != leading):
        awaited = ", ".join(map(str, (*(leading or ["..."]), width)))
        raise ValueError(f"{name} is of shape {list(x.shape)}, not [{awaited}].")


def check_norm(weight, width, types):
    if weight.dtype != types[0] or tuple(weight.shape) != (width,):
        raise ValueError(f"A norm is {weight.dtype} {list(weight.shape)}, not float32 [{width}].")


def check_cache(x, positions, cache, rules, types):
    """x must be [B, T, ...], positions two of int32 [B, T], and the cache as `attend` describes."""
    if x.ndim != 3:
        raise ValueError(f"Activations are of shape {list(x.shape)}, not [batch, tokens, width].")
    if len(positions) != 2 or len(cache) != 5:
        raise ValueError(
            "Positions are (index, segment), a cache (keys, values, index, segment, stored)."
        )
    batch, tokens = x.shape[:2]
    keys, values, index, segment, stored = cache
    if keys.ndim != 4 or keys.shape[1] < 1 or keys.dtype not in types[:2]:
        raise ValueError(
            f"keys are {keys.dtype} {list(keys.shape)}, not float32 or bfloat16 [B, S, K, H]."
        )
    slots = keys.shape[1]
    whole = (batch, slots, rules.num_key_value_heads, rules.head_dim)
    _check("positions' index", positions[0], (batch, tokens), types[2])
    _check("positions' segment", positions[1], (batch, tokens), types[2])
    _check("keys", keys, whole, keys.dtype)
    _check("values", values, whole, keys.dtype)
    _check("the cache's index", index, (batch, slots), types[2])
    _check("the cache's segment", segment, (batch, slots), types[2])
    _check("stored", stored, (batch,), types[2])


def _check(name, part, shape, dtype):
    if part.shape != shape or part.dtype != dtype:
        raise ValueError(
            f"{name}: {part.dtype} {list(part.shape)} came, {dtype} {list(shape)} was awaited."
        )
