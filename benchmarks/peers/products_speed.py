"""How fast a backend multiplies matrices: what no library on it can train faster than.

The products are those of a step: with the embedding's table, and with a matrix of the feed-forward layer; each
forward, for the gradient of its inputs, and for that of its weights.

M tokens, I inputs, O outputs.
"""

import numpy as np
from shapes import SHAPES
from timing import Session, serve, versions

EQUATIONS = {"forward": "mi,oi->mo", "inputs": "mo,oi->mi", "weights": "mo,mi->oi"}


class Backend:
    """A backend of Keras, and the sizes that it multiplies."""

    def __init__(self, shape, dtype, cores):
        import keras

        self.keras, self.dtype, sizes = keras, dtype, SHAPES[shape]
        width = sizes["hidden_dim"]
        self.matrices = {
            "head": (sizes["vocabulary_size"], width),
            "block": (sizes["intermediate_dim"], width),
        }
        self.facts = {"versions": versions("keras", keras.config.backend())}

    def product(self, equation, left, right):
        """Returns a function that multiplies, and waits until it is done."""
        ops, random = self.keras.ops, np.random.default_rng(0)
        a, b = (
            ops.convert_to_tensor(random.standard_normal(s, "float32"), self.dtype)
            for s in (left, right)
        )

        def multiply():
            product = ops.einsum(equation, a, b)
            ops.convert_to_numpy(product[:1, :1])  # it may be computed in the background

        return multiply


def products(session: Session, tokens: int, least: float = 0.5) -> dict:
    """FLOPs a second of each product, over at least so many seconds."""
    rates = {}
    for name, (O, I) in session.peer.matrices.items():
        shape = {"m": tokens, "o": O, "i": I}
        for kind, equation in EQUATIONS.items():
            left, right = equation.split("->")[0].split(",")
            sizes = (tuple(shape[letter] for letter in letters) for letters in (left, right))
            multiply = session.peer.product(equation, *sizes)
            multiply()
            times, began = 0, session.clock()
            while not times or session.clock() - began < least:
                multiply()
                times += 1
            rates[f"{name}_{kind}"] = 2 * tokens * O * I * times / (session.clock() - began)
    return rates


if __name__ == "__main__":
    serve(Backend, {"products": products})
