"""The layout map names each weight once and splits only what divides."""

import itertools
import re

import keras
import numpy as np
import pytest

from keras_gemma.config import GemmaConfig
from keras_gemma.distribution import gemma_layout_map, placements
from keras_gemma.distribution.layout_map import REPLICATED

# Sizes as published: Gemma 2B has one key-value head, 7B one for each query head.
PUBLISHED = {
    "2b": GemmaConfig(256_000, 18, 8, 1, 2048, 16_384, 256),
    "7b": GemmaConfig(256_000, 28, 16, 16, 3072, 24_576, 256),
    "grouped": GemmaConfig(256_000, 26, 8, 4, 2304, 9216, 256),
}
MESHES = [(1, 1), (1, 8), (2, 4), (16, 16), (256, 1), (1, 16)]


def shapes(config):
    """Path and shape of every weight, all options on."""
    v, d, f = config.vocabulary_size, config.hidden_dim, config.intermediate_dim
    n, k, h = config.num_query_heads, config.num_key_value_heads, config.head_dim
    found = {"token_embedding/embeddings": (v, d), "final_normalization/scale": (d,)}
    block = {
        "attention/query/kernel": (n, d, h),
        "attention/key/kernel": (k, d, h),
        "attention/value/kernel": (k, d, h),
        "attention/attention_output/kernel": (n, h, d),
        "attention/query_norm/scale": (h,),
        "attention/key_norm/scale": (h,),
        "ffw_gating/kernel": (d, f),
        "ffw_gating_2/kernel": (d, f),
        "ffw_linear/kernel": (f, d),
        **{f"{name}_norm/scale": (d,) for name in ("pre_attention", "post_attention")},
        **{f"{name}_norm/scale": (d,) for name in ("pre_ffw", "post_ffw")},
    }
    for i in range(config.num_layers):
        found |= {f"decoder_block_{i}/{path}": shape for path, shape in block.items()}
    return found


@pytest.mark.parametrize("prefix", ["", "gemma_causal_lm/gemma_backbone/"])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_each_weight_is_named_once_and_every_split_divides(name, mesh, prefix):
    config, sizes = PUBLISHED[name], dict(zip(("batch", "model"), mesh))
    plan = placements(sizes, config=config)
    for path, shape in shapes(config).items():
        matching = [pattern for pattern in plan if re.fullmatch(pattern, prefix + path)]
        assert len(matching) == 1, path
        axes, whole = plan[matching[0]]
        assert len(axes) == len(shape)
        for axis, held in zip(axes, shape):
            assert axis is None or held % sizes[axis] == 0, path
        named = [axis for axis in axes if axis]
        assert len(named) == len(set(named))
        if path.endswith("scale"):
            assert matching[0] in REPLICATED
        elif len(named) < 2:
            assert whole, f"{path} is not split over all axes, and no reason is given"


def test_what_stays_whole_has_a_reason_in_numbers():
    def reasons(mesh, name):
        plan = placements(dict(zip(("batch", "model"), mesh)), config=PUBLISHED[name])
        kernels = [plan[pattern].whole for pattern in plan if pattern not in REPLICATED]
        return set(itertools.chain(*kernels))

    assert reasons((2, 4), "2b") == {
        "num_key_value_heads=1 does not divide among 4 devices of axis 'model'"
    }
    assert reasons((2, 4), "7b") == reasons((1, 16), "7b") == reasons((256, 1), "7b") == set()
    assert reasons((1, 16), "2b") == {
        "num_query_heads=8 does not divide among 16 devices of axis 'model'",
        "num_key_value_heads=1 does not divide among 16 devices of axis 'model'",
    }


def test_grouped_keys_are_split_with_a_config_only():
    def key(config):
        plan = placements({"batch": 2, "model": 4}, config=config)
        return next(
            p for k, p in plan.items() if re.fullmatch(k, "decoder_block_0/attention/key/kernel")
        )

    assert key(PUBLISHED["grouped"]).axes == ("model", "batch", None)
    assert key(PUBLISHED["2b"]).axes == (None, "batch", None)
    assert key(None).axes == (None, "batch", None)


def mesh_of_one(*names):
    """A mesh that exists on any machine; without a device no array is placed."""
    return keras.distribution.DeviceMesh((1,) * len(names), names, np.array(["cpu:0"]))


def test_splits_are_those_of_keras_hub_but_for_keys_and_values():
    keras_hub = pytest.importorskip("keras_hub")
    mesh = mesh_of_one("batch", "model")
    ours = gemma_layout_map(mesh)
    theirs = keras_hub.models.GemmaBackbone.get_layout_map(mesh)
    for path in shapes(PUBLISHED["7b"]):
        if re.search("(key|value)/kernel", path):
            assert ours[path].axes == (None, *theirs[path].axes[1:])
        elif path.endswith("scale"):
            assert theirs[path] is None and ours[path].axes == (None,)
        else:
            assert ours[path].axes == theirs[path].axes


def test_it_names_the_weights_that_a_model_has(backbone):
    layout_map = type(backbone).get_layout_map(
        mesh_of_one("batch", "model"), config=backbone.config
    )
    for variable in backbone.weights:
        if "seed_generator" not in variable.path:
            layout = layout_map[variable.path]
            assert layout is not None, variable.path
            assert len(layout.axes) == len(variable.shape)


def test_axes_have_the_names_that_are_given():
    layout_map = gemma_layout_map(mesh_of_one("x", "y"), "y", "x")
    assert layout_map["token_embedding/embeddings"].axes == ("y", "x")


@pytest.mark.parametrize(
    "names, arguments, said",
    [
        (("batch",), (), r"model_parallel_dim_name='model'.*\['batch'\]"),
        (("data", "model"), (), r"data_parallel_dim_name='batch'.*\['data', 'model'\]"),
        (("batch", "model"), ("batch", "batch"), "Both axes"),
    ],
)
def test_a_mesh_without_an_axis_is_told_so(names, arguments, said):
    with pytest.raises(ValueError, match=said):
        gemma_layout_map(mesh_of_one(*names), *arguments)


def test_something_else_than_a_mesh_is_refused():
    with pytest.raises(TypeError, match="DeviceMesh, not tuple"):
        gemma_layout_map((1, 8))


def test_sizes_that_do_not_divide_are_warned_of():
    mesh = keras.distribution.DeviceMesh((1, 16), ("batch", "model"), np.array(["cpu:0"] * 16))
    with pytest.warns(UserWarning, match="num_query_heads=8 does not divide among 16"):
        gemma_layout_map(mesh, config=PUBLISHED["2b"])
    gemma_layout_map(mesh, config=PUBLISHED["7b"])
