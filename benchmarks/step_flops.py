"""FLOPs of a training step: what must be computed, and no more."""


def step_flops(sizes: dict, rows: int, length: int, rank: int = 0) -> dict[str, float]:
    """By the product that computes it; `sizes` are those of peers/shapes.py.

    Each weight of a matrix takes 2 FLOPs a token forward, 2 for the gradient of its inputs, and 2 for its
    own: 6 x weights x tokens, the embedding's table counted once, as a product. With adapters of
    some `rank` on queries and values only these have gradients of their own, and in the first block
    nothing has that no adapter needs. Of attention's squares of scores, half a square is counted: one cannot see
    what comes later.

    >>> tiny = dict(vocabulary_size=10, num_layers=1, num_query_heads=1, num_key_value_heads=1,
    ...             hidden_dim=2, intermediate_dim=3, head_dim=2)
    >>> sum(step_flops(tiny, rows=1, length=1).values())  # 6 x (20 + 16 + 18), and attention
    336.0
    """
    D, H = sizes["hidden_dim"], sizes["head_dim"]
    N, K, L = sizes["num_query_heads"], sizes["num_key_value_heads"], sizes["num_layers"]
    tokens = rows * length
    head = 2.0 * tokens * sizes["vocabulary_size"] * D
    into_attention = 2.0 * tokens * D * H * (N + 2 * K)
    out_and_feed = 2.0 * tokens * (D * H * N + 3 * D * sizes["intermediate_dim"])
    blocks = L * (into_attention + out_and_feed)
    attention = L * 2.0 * rows * length**2 * N * H
    adapters = L * 2.0 * tokens * rank * (2 * D + (N + K) * H)
    trained = 0.0 if rank else 1.0
    # In the first block: projections' inputs, one product of scores for keys, adapters' inputs.
    unneeded = into_attention + attention / L / 2 + 4.0 * tokens * rank * D if rank else 0.0
    return {
        "head_forward": head,
        "head_inputs": head,
        "head_weights": trained * head,
        "block_forward": blocks + attention + adapters,
        "block_inputs": blocks + 2 * attention + adapters - unneeded,
        "block_weights": trained * blocks + adapters,
    }


def least_seconds(flops: dict[str, float], rates: dict[str, float]) -> float:
    """What they take at the rates of their products."""
    return sum(flops[product] / rates[product] for product in flops)
