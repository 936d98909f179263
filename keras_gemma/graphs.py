"""Graphs of TensorFlow that memory gets back."""

import contextlib
import weakref

import keras


@contextlib.contextmanager
def own_gradients():
    """What is traced inside keeps its custom gradients itself, and goes with them; on TensorFlow, elsewhere nothing.

    TensorFlow registers the gradient of each call of `custom_gradient` for as long as the process lives. The gradient
    holds its graph, the graph the variables: a model that was trained and deleted would stay.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry

    if tf.executing_eagerly():  # nothing is registered
        yield
        return
    registered, graph = gradient_registry._registry, tf.compat.v1.get_default_graph()
    before = set(registered)
    yield
    for name in registered.keys() - before:
        entry = registered[name]
        graph.add_to_collection("own_gradients", entry["type"])
        entry["type"] = weakref.proxy(entry["type"])
        weakref.finalize(graph, registered.pop, name, None)
