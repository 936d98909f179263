"""Sizes of models that are measured with random weights."""

SHAPES = {
    "270m": {  # the sizes of Gemma 3 270M, in the shape of Gemma 1
        "vocabulary_size": 256_000,
        "num_layers": 18,
        "num_query_heads": 4,
        "num_key_value_heads": 1,
        "hidden_dim": 640,
        "intermediate_dim": 2048,  # of one branch
        "head_dim": 256,
    },
    "2b": {
        "vocabulary_size": 256_000,
        "num_layers": 18,
        "num_query_heads": 8,
        "num_key_value_heads": 1,
        "hidden_dim": 2048,
        "intermediate_dim": 16_384,
        "head_dim": 256,
    },
    "2b_4_layers": {  # four of the eighteen layers of Gemma 2B
        "vocabulary_size": 256_000,
        "num_layers": 4,
        "num_query_heads": 8,
        "num_key_value_heads": 1,
        "hidden_dim": 2048,
        "intermediate_dim": 16_384,
        "head_dim": 256,
    },
    "tiny": {  # what libraries and programs take by themselves; for tries, too
        "vocabulary_size": 2048,
        "num_layers": 2,
        "num_query_heads": 4,
        "num_key_value_heads": 1,
        "hidden_dim": 64,
        "intermediate_dim": 128,
        "head_dim": 32,
    },
}


def both_branches(shape: dict) -> dict:
    """The same sizes for a backbone whose `intermediate_dim` counts both branches.

    >>> both_branches(SHAPES["tiny"])["intermediate_dim"]
    256
    """
    return {**shape, "intermediate_dim": 2 * shape["intermediate_dim"]}


def parameters(shape: dict) -> int:
    """Weights of a model, its embedding counted once.

    >>> round(parameters(SHAPES["270m"]) / 1e6)
    264
    """
    D, H = shape["hidden_dim"], shape["head_dim"]
    heads = 2 * shape["num_query_heads"] + 2 * shape["num_key_value_heads"]
    block = D * H * heads + 3 * D * shape["intermediate_dim"] + 2 * D
    return shape["vocabulary_size"] * D + shape["num_layers"] * block + D
