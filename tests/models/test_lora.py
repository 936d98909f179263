"""LoRA on a backbone: what is trained, switched, merged, generated and refused."""

import keras
import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but
from lora_examples import BATCH, IDS, adapted, drawn, logits, model

from keras_gemma import Gemma3Backbone
from keras_gemma.models.lora import TARGETS

ALL_OPTIONS = {"use_dora": True, "use_rslora": True, "dropout": 0.1}


def trained_layers(backbone):
    return sorted({v.path.split("/")[-2] for v in backbone.trainable_variables})


# --- what is trained ---


def test_queries_and_values_alone_are_trained_unless_others_are_named():
    lm = model()
    before = logits(lm)
    lm.backbone.enable_lora(2)
    assert trained_layers(lm.backbone) == ["query", "value"]
    assert {v.path for v in lm.trainable_variables} == {
        f"decoder_block_{i}/attention/{name}/lora_kernel_{part}"
        for i in range(2)
        for name in ("query", "value")
        for part in "ab"
    }
    np.testing.assert_array_equal(logits(lm), before)
    for names in (list(TARGETS), list(TARGETS.values()), [*TARGETS, *TARGETS.values()]):
        other = model(num_layers=1)
        other.backbone.enable_lora(2, names)
        assert trained_layers(other.backbone) == sorted(TARGETS)


@pytest.mark.parametrize("mode", once_but([None, "int8", "int4"], "int4"))
@pytest.mark.parametrize("way", once_but([{}, ALL_OPTIONS], ALL_OPTIONS))
def test_training_lowers_the_loss_and_leaves_the_base_as_it_is(mode, way):
    lm = model(mode, num_layers=1)
    base = {v.path: np.asarray(keras.ops.convert_to_numpy(v)) for v in lm.backbone.weights}
    lm.backbone.enable_lora(3, list(TARGETS), **way)
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    losses = lm.fit(BATCH, IDS, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0], losses
    held = {v.path: v for v in lm.backbone.weights}
    for path, numbers in base.items():
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(held[path]), numbers)
    kernels = [v for path, v in held.items() if path.endswith("/kernel")]
    # Quantized weights stay whole numbers: nothing as large as a kernel is kept as floats.
    assert {v.dtype for v in kernels} == {mode and "int8" or "float32"}
    smallest = min(np.prod(v.shape) for v in kernels)
    added = [v for path, v in held.items() if path not in base]
    assert mode is None or all(np.prod(v.shape) < smallest * 2 for v in added)


def test_one_step_is_a_step_of_gradient_descent_on_the_adapter():
    """Against differences of the loss; twice, for gradients must not pile up."""
    lm = adapted()
    lm.compile(optimizer=keras.optimizers.SGD(0.01))
    a = lm.backbone.trainable_variables[0]
    for _ in range(2):
        before = np.array(keras.ops.convert_to_numpy(a))
        kept = [np.array(keras.ops.convert_to_numpy(v)) for v in lm.backbone.trainable_variables]
        slopes, place = [], np.unravel_index(np.abs(before).argmax(), before.shape)
        for sign in (1, -1):
            moved = before.copy()
            moved[place] += sign * 1e-2
            a.assign(moved)
            slopes.append(sign * lm.test_on_batch(BATCH, IDS)[0] / 2e-2)
        for variable, numbers in zip(lm.backbone.trainable_variables, kept):
            variable.assign(numbers)
        lm.train_on_batch(BATCH, IDS)
        step = np.asarray(keras.ops.convert_to_numpy(a))[place] - before[place]
        assert step == pytest.approx(-0.01 * sum(slopes), rel=0.03)


@pytest.mark.skipif(keras.config.backend() != "jax", reason="what JAX writes down can be read")
def test_no_gradient_of_the_base_is_computed():
    import jax

    lm = model(num_layers=3)
    lm.backbone.enable_lora(2)
    trained, rest = lm.trainable_variables, lm.non_trainable_variables

    def loss(values):
        made, _ = lm.stateless_call(values, [v.value for v in rest], BATCH)
        return (made**2).sum()

    program = jax.make_jaxpr(jax.grad(loss))([v.value for v in trained])
    shapes = [tuple(v.shape) for v in rest if len(v.shape) > 1]
    made = [tuple(o.aval.shape) for e in _equations(program.jaxpr) for o in e.outvars]
    products = [
        tuple(sorted(o.aval.shape))
        for e in _equations(program.jaxpr)
        if e.primitive.name == "dot_general"
        for o in e.outvars
    ]
    assert len(products) > 30 and made
    assert not {tuple(sorted(shape)) for shape in shapes} & set(products)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


# --- several of them ---


def test_adapters_are_switched_by_name():
    lm = model()
    base = logits(lm)
    made = {}
    for seed, name in enumerate(("a", "b")):
        lm.backbone.enable_lora(2 + seed, ["query", "ffw_linear"][: seed + 1], name=name)
        drawn(lm.backbone, seed)
        made[name] = logits(lm)
    assert lm.backbone.lora_names == ["a", "b"] and lm.backbone.active_lora == "b"
    for name in ("a", "b", "a"):
        lm.backbone.set_lora(name)
        np.testing.assert_array_equal(logits(lm), made[name])
    lm.backbone.set_lora(None)
    np.testing.assert_array_equal(logits(lm), base)
    lm.backbone.delete_lora("a")
    assert lm.backbone.lora_names == ["b"]
    lm.backbone.set_lora("b")
    np.testing.assert_array_equal(logits(lm), made["b"])


def test_compiled_programs_follow_a_switch():
    """Of adapters in equal shapes and unequal scales: a program of the one would serve the other."""
    lm = model()
    for name, alpha in (("a", 3), ("b", 30)):
        lm.backbone.enable_lora(3, alpha=alpha, name=name)
        drawn(lm.backbone)
    for name in ("a", "b", None, "a"):
        lm.backbone.set_lora(name)
        close(lm.predict(BATCH, verbose=0), logits(lm), 1e-5)


def test_merged_and_unmerged_models_compute_the_same():
    lm = adapted(use_dora=True, target_layer_names=list(TARGETS))
    kernels = {v.path: v.numpy() for v in lm.backbone.weights if v.path.endswith("kernel")}
    before, loss = logits(lm), lm.test_on_batch(BATCH, IDS)[0]
    lm.backbone.merge_lora()
    assert lm.backbone.merged_lora == "default" and lm.backbone.active_lora is None
    close(logits(lm), before, 1e-5)
    assert lm.test_on_batch(BATCH, IDS)[0] == pytest.approx(loss, rel=1e-5)
    close(lm.predict(BATCH, verbose=0), before, 1e-5)
    for refused in (
        lm.backbone.merge_lora,
        lambda: lm.backbone.set_lora(None),
        lambda: lm.backbone.delete_lora("default"),
        lambda: lm.backbone.enable_lora(2, name="b"),
        lambda: lm.backbone.save_lora_weights("x.lora.h5"),
    ):
        with pytest.raises(ValueError, match=r"'default' is merged .* unmerge_lora\(\) first"):
            refused()
    lm.backbone.unmerge_lora()
    for variable in lm.backbone.weights:
        if variable.path in kernels:
            np.testing.assert_array_equal(variable.numpy(), kernels[variable.path])
    np.testing.assert_array_equal(logits(lm), before)


def numbers(backbone):
    return {
        (layer.path, name, part): np.array(keras.ops.convert_to_numpy(variable))
        for layer in backbone._dense_layers()
        for name, branch in layer.branches.items()
        for part, variable in enumerate(branch.variables)
    }


def test_whichever_adapter_takes_part_is_trained_and_no_other(tmp_path):
    lm = model(num_layers=1)
    lm.backbone.enable_lora(2, name="a")
    drawn(lm.backbone)
    lm.backbone.save_lora_weights(tmp_path / "a.lora.h5")
    lm.backbone.enable_lora(3, ["query", "ffw_linear"], name="b")
    drawn(lm.backbone)
    lm.backbone.load_lora_weights(tmp_path / "a.lora.h5", name="c")
    for name in ("a", "b", "c", "a"):
        lm.backbone.set_lora(name)
        lm.compile(optimizer=keras.optimizers.SGD(0.1))
        assert len(lm.trainable_variables) == len(lm.backbone.trainable_variables) == 4
        before = numbers(lm.backbone)
        lm.train_on_batch(BATCH, IDS)
        after = numbers(lm.backbone)
        moved = {place for place in before if (before[place] != after[place]).any()}
        assert moved == {place for place in before if place[1] == name}


def test_an_adapter_that_was_frozen_is_trained_once_it_is_chosen_again():
    backbone = model(num_layers=1).backbone
    backbone.enable_lora(2)
    for others in ([None], [], ["default"]):
        backbone.trainable = False
        for name in [*others, "default"]:
            backbone.set_lora(name)
        assert trained_layers(backbone) == ["query", "value"]
        assert len(backbone.trainable_variables) == 4
    backbone.trainable = True
    backbone.set_lora("default")
    assert len(backbone.trainable_variables) == 4


# --- generation ---


def tokens(lm):
    return lm.generate(BATCH, max_length=16, stop_token_ids=None)["token_ids"]


@pytest.mark.parametrize(
    "mode, plan",
    once_but([(None, "auto"), (None, "none"), ("int4", "auto")], ("int4", "auto")),
)
def test_the_next_token_follows_whatever_is_done_to_adapters(mode, plan, tmp_path):
    """Awaited: the best next tokens of the model itself, or those of one made for the purpose."""
    lm, seen = model(mode, plan, num_layers=1), []
    backbone = lm.backbone

    def follows():
        seen.append(tokens(lm))
        if mode is None:
            ids = seen[-1][:, : IDS.shape[1]]
            best = keras.ops.convert_to_numpy(lm({"token_ids": ids, "padding_mask": ids * 0 + 1}))
            np.testing.assert_array_equal(best[:, -1].argmax(-1), seen[-1][:, IDS.shape[1]])
            return
        # Kernels round what whole numbers are multiplied by.
        fresh = model(mode, plan, num_layers=1)
        if backbone.active_lora:
            backbone.save_lora_weights(tmp_path / "a.lora.h5")
            fresh.backbone.load_lora_weights(tmp_path / "a.lora.h5")
        np.testing.assert_array_equal(seen[-1], tokens(fresh))

    follows()
    backbone.enable_lora(2, list(TARGETS), name="a")
    drawn(backbone, seed=4)
    follows()
    drawn(backbone, seed=5)
    follows()
    backbone.enable_lora(2, list(TARGETS), use_dora=True, name="b")
    drawn(backbone, seed=6)
    follows()
    assert all((seen[i] != seen[j]).any() for i in range(4) for j in range(i))
    backbone.set_lora("a")
    follows()
    assert (seen[4] == seen[2]).all()
    if mode is None:
        backbone.merge_lora()
        assert (tokens(lm) == seen[2]).all()
        backbone.unmerge_lora()
    backbone.set_lora(None)
    follows()
    assert (seen[5] == seen[0]).all()


# --- refused ---


@pytest.mark.once
def test_what_cannot_be_is_refused(tmp_path):
    backbone = model().backbone
    with pytest.raises(ValueError, match="no layer 'q_proj' to adapt; there are query, key"):
        backbone.enable_lora(2, ["query", "q_proj"])
    with pytest.raises(ValueError, match="target_layer_names is empty, which would adapt nothing"):
        backbone.enable_lora(2, [])
    with pytest.raises(ValueError, match="rank must be"):
        backbone.enable_lora(0)
    with pytest.raises(ValueError, match="name is letters"):
        backbone.enable_lora(2, name="a/b")
    with pytest.raises(ValueError, match="No adapter is active"):
        backbone.merge_lora()
    with pytest.raises(ValueError, match="No adapter is merged"):
        backbone.unmerge_lora()
    with pytest.raises(ValueError, match="no active adapter to save"):
        backbone.save_lora_weights(tmp_path / "a.lora.h5")
    assert len(backbone.trainable_variables) == len(backbone.weights)
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match="an adapter 'default' already, LoRA of rank 2"):
        backbone.enable_lora(4)
    with pytest.raises(ValueError, match="no adapter 'b'; there are .'default'."):
        backbone.set_lora("b")
    with pytest.raises(ValueError, match="Give a file that ends in .lora.h5"):
        backbone.save_lora_weights(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="carries LoRA"):
        backbone.quantize("int8")
    quantized = adapted("int8").backbone
    with pytest.raises(ValueError, match="holds int8, too coarse .*load the base as floats"):
        quantized.merge_lora()


def test_numbers_of_numpy_are_numbers(tmp_path):
    backbone = model(num_layers=1).backbone
    backbone.enable_lora(np.int64(2), alpha=np.float32(8), dropout=np.float32(0.5))
    options = backbone._layers_of("default")[0].branches["default"].options
    assert [type(x) for x in (options.rank, options.alpha, options.dropout)] == [int, float, float]
    assert options.scale == 4
    backbone.save_lora_weights(tmp_path, format="peft")
    backbone.load_lora_weights(tmp_path, name="again")


def test_gemma_3_is_adapted_alike():
    sizes = {**SIZES, "hidden_dim": 32, "num_layers": 2, "intermediate_dim": 32}
    backbone = loud(
        Gemma3Backbone(
            image_size=None, use_post_ffw_norm=True, use_post_attention_norm=True, **sizes
        )
    )
    backbone.enable_lora(2, list(TARGETS))
    assert len(backbone.trainable_variables) == 2 * 2 * len(TARGETS)
