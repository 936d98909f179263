"""A loss that teaches an embedder from pairs alone: the other texts of a batch are the wrong ones."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_gemma")
class InBatchNegatives(keras.losses.Loss):
    """Each text has to find those of its own label among all others of the batch.

    The cross-entropy of that choice, by the products of vectors over a temperature (NT-Xent, arXiv
    2002.05709; with several of a label, the mean over them, arXiv 2004.11362). Labels are numbers,
    the same for texts that belong together; a text that is alone with its own counts as 0.

    >>> vectors = keras.ops.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> right, wrong = (InBatchNegatives()(keras.ops.array(y), vectors)
    ...                 for y in ([0, 0, 1, 1], [0, 1, 0, 1]))
    >>> round(float(right), 2), round(float(wrong), 2)
    (0.0, 20.0)

    Args:
        temperature: small values make near misses cost more.
    """

    def __init__(self, temperature: float = 0.05, name: str = "in_batch_negatives", **kwargs):
        super().__init__(name=name, **kwargs)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        label_B = ops.reshape(y_true, (-1,))
        itself_BB = ops.eye(ops.shape(y_pred)[0], dtype="bool")
        score_BB = ops.matmul(y_pred, ops.transpose(y_pred)) / self.temperature
        log_BB = ops.log_softmax(ops.where(itself_BB, -1e9, score_BB), axis=-1)
        same_BB = ops.logical_and(label_B[:, None] == label_B[None], ops.logical_not(itself_BB))
        same_BB = ops.cast(same_BB, log_BB.dtype)
        count_B = ops.maximum(ops.sum(same_BB, axis=1), 1.0)
        return -ops.sum(log_BB * same_BB, axis=1) / count_B

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
