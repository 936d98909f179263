"""How many operations a step of training needs, and how many the machine can do."""

import functools
import time

import keras

_SECONDS = 0.2  # that a probe multiplies for
_LARGEST = 8192


def training_flops(model: keras.Model, tokens: int) -> float:
    """Operations of one step over a row of so many tokens, forward and backward.

    Two for each weight and token forward, two for the gradient of what it multiplied, and two more
    for the gradient of a weight that is trained (arXiv 2001.08361, appendix B). The table of the
    embedding is looked up for nothing and multiplied once, for the logits. What rematerialisation
    computes again is not counted: it is the model's work that is told.
    """
    config = model.backbone.config
    sizes = [(keras.ops.size(v), v.trainable) for v in model.backbone.weights if len(v.shape) > 1]
    products = sum(int(size) * (6 if trained else 4) for size, trained in sizes)
    # Scores and their sums of values: a causal token looks back at half of its row.
    attention = 3 * 2 * tokens * config.num_query_heads * config.head_dim * config.num_layers
    return float(tokens * (products + attention))


@functools.cache
def product_rate(dtype: str) -> float:
    """Operations a second in products of square matrices of that dtype, on this machine, now.

    The size grows until one product takes a tenth of the probe; the best of them is told.
    """
    size, best = 256, 0.0
    until = time.perf_counter() + _SECONDS
    while True:
        a = keras.ops.ones((size, size), dtype)
        _multiply(a)  # compiles
        start = time.perf_counter()
        _multiply(a)
        took = time.perf_counter() - start
        best = max(best, 2 * size**3 / took)
        if time.perf_counter() > until:
            return best
        if took < _SECONDS / 10 and size < _LARGEST:
            size *= 2


def _multiply(a):
    float(keras.ops.cast(keras.ops.matmul(a, a)[0, 0], "float32"))  # a number tells that it is done
