"""Programs of `fit`, `evaluate` and `predict` that follow a model's variables when these come and go, and go with it."""

import keras

from keras_gemma.graphs import own_gradients


class FreshPrograms(keras.Model):
    """A model whose compiled steps are of the variables that it has.

    Keras keeps a step once it is compiled. Adapters that are added, exchanged or merged leave it with
    variables that take no part any more.
    """

    _compiled_for: dict[str, list] | None = None

    def make_train_function(self, force=False):
        return super().make_train_function(self._has_changed("train") or force)

    def make_test_function(self, force=False):
        return super().make_test_function(self._has_changed("test") or force)

    def make_predict_function(self, force=False):
        return super().make_predict_function(self._has_changed("predict") or force)

    def train_step(self, *args, **kwargs):
        if hasattr(self, "zero_grad"):
            # PyTorch's: Keras lets go of the last step's gradients after the forward pass, which then has less room.
            self.zero_grad()
        with own_gradients():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        with own_gradients():
            return super().test_step(*args, **kwargs)

    def predict_step(self, *args, **kwargs):
        with own_gradients():
            return super().predict_step(*args, **kwargs)

    def _has_changed(self, kind):
        """Whether variables are others than when this was asked last; PyTorch wraps lists in `self`."""
        if self._compiled_for is None:
            object.__setattr__(self, "_compiled_for", {})
        now, before = self.variables, self._compiled_for.get(kind)
        self._compiled_for[kind] = now
        return before is not None and [*map(id, now)] != [*map(id, before)]
