"""A lookup in a table that the same step multiplies with as well, whose gradient needs no memory of its own.

B batch, T tokens, D model width, V vocabulary.
"""

import keras
from keras import ops


def tied_lookup(ids_BT, table_VD):
    """`(vectors BTD, the table again)`.

    The gradient of the vectors is added to the rows of the gradient of what is returned as the table, in place. With a
    large vocabulary that saves as much memory as the table, and the time to add two of its size.
    """
    if keras.backend.backend() == "torch":
        from keras_gemma.layers.torch_gradients import TiedLookup

        return TiedLookup.apply(ids_BT, table_VD)

    @ops.custom_gradient
    def lookup(table_VD):
        def gradient(*upstream):
            vectors_BTD, grad_VD = upstream[0] if len(upstream) == 1 else upstream
            rows = ops.reshape(vectors_BTD, (-1, table_VD.shape[1]))
            places = ops.reshape(ids_BT, (-1, 1))
            return ops.scatter_update(grad_VD, places, rows, reduction="add")

        return (ops.take(table_VD, ids_BT, axis=0), table_VD), gradient

    return lookup(table_VD)
