"""DeepMind's Flax checkpoints, as Orbax writes them and as DeepMind's own package computes them."""

import builtins
import json
import re
import shutil

import cases
import numpy as np
import pytest
from conftest import close, once_but
from mutations import survived

import keras_gemma.conversion.orbax.checkpoint as orbax
from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.conversion.formats import format_of, open_checkpoint
from keras_gemma.conversion.from_shapes import told
from keras_gemma.presets import BadPresetError, PresetError

pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")

# Orbax warns of its own settings when it is used outside of a training loop.
pytestmark = pytest.mark.filterwarnings("ignore")

NORMS = ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm")


def flax_tree(model, transposed=False):
    """Our weights in DeepMind's nested tree, by the facts of its `gemma/gm/nn/_modules.py`."""
    values = {v.path: np.asarray(v) for v in model.backbone.variables}
    tree = {
        "embedder": {"input_embedding": values["token_embedding/embeddings"]},
        "final_norm": {"scale": values["final_normalization/scale"]},
    }
    for i in range(model.backbone.num_layers):

        def at(name, i=i):
            return values.get(f"decoder_block_{i}/{name}")

        attention = {"attn_vec_einsum": {"w": at("attention/attention_output/kernel")}}
        q, k, v = (at(f"attention/{name}/kernel") for name in ("query", "key", "value"))
        if len(q) == len(k):
            attention["qkv_einsum"] = {"w": np.stack([q, k, v])}
        else:
            attention |= {"q_einsum": {"w": q}, "kv_einsum": {"w": np.stack([k, v])}}
        for name in ("query_norm", "key_norm"):
            if (scale := at(f"attention/{name}/scale")) is not None:
                attention[f"_{name}"] = {"scale": scale}
        gating = np.stack([at("ffw_gating/kernel"), at("ffw_gating_2/kernel")])
        tree[f"layer_{i}"] = {
            "attn": attention,
            "mlp": {
                "gating_einsum": gating.transpose(0, 2, 1) if transposed else gating,
                "linear": at("ffw_linear/kernel"),
            },
            **{n: {"scale": at(f"{n}/scale")} for n in NORMS if at(f"{n}/scale") is not None},
        }
    return tree


def flat(tree):
    """The tree as the official checkpoints have it: one level of paths, and `w` in the MLP."""
    found = {}

    def walk(node, path):
        for name, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{path}/{name}")
            elif path.endswith("/mlp"):
                found[f"{path}/{name}"] = {"w": value}
            else:
                found.setdefault(path, {})[name] = value

    walk(tree, "transformer")
    return found


def saved(tree, folder, how="ocdbt"):
    import orbax.checkpoint as ocp

    if how == "standard":
        with ocp.StandardCheckpointer() as writer:
            writer.save(folder, tree)
    else:
        options = {"folders": {"use_ocdbt": False}, "zarr3": {"use_zarr3": True}}.get(how, {})
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as writer:
            writer.save(folder, args=ocp.args.PyTreeSave(tree))
    return folder


def with_configuration(folder, model):
    config = told(type(model.backbone).__name__, model.backbone.get_config())
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.once
@pytest.mark.parametrize("how", ["ocdbt", "folders", "zarr3", "standard"])
@pytest.mark.parametrize("layout", ["flat", "nested", "trainer's"])
def test_every_layout_gives_the_same_weights(tmp_path, how, layout):
    model = cases.make("grouped")
    tree = flax_tree(model)
    tree = {"flat": flat, "nested": dict, "trainer's": lambda t: {"params": t, "step": 3}}[layout](
        tree
    )
    if how == "standard" and layout == "trainer's":
        tree["step"] = np.int32(3)
    place = saved(tree, tmp_path / "2b", how)
    assert format_of(place) == format_of(tmp_path) == "orbax"
    found = open_checkpoint(tmp_path)
    variables = {v.path: np.asarray(v) for v in model.backbone.variables}
    fit = found.fit()
    assert not fit.problems
    for entry in fit.entries:
        for path, array in entry.to_ours(found.tensors.read(entry.theirs)):
            assert np.array_equal(array, variables[path]), path


NAMES = ["multi-query", "multi-head, wider than the model", "Gemma 2", "Gemma 2 27B's scale"]


@pytest.mark.parametrize("transposed", once_but([False, True], True))
@pytest.mark.parametrize("name", once_but([*NAMES, *cases.GEMMA3], "Gemma 3"))
def test_a_checkpoint_gives_back_the_model(tmp_path, name, transposed):
    model = cases.make(name)
    place = saved(flat(flax_tree(model, transposed)), tmp_path / "x")
    with_configuration(place, model)
    back = type(model.backbone).from_preset(place, dtype="float32")
    for ours, theirs in zip(model.backbone.variables, back.variables):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs)), ours.path
    skipped = ("name", "dtype")
    configs = [x.get_config() for x in (model.backbone, back)]
    ours, theirs = ({k: v for k, v in c.items() if k not in skipped} for c in configs)
    assert ours == theirs


@pytest.mark.parametrize("name", ["multi-query", "multi-head, wider than the model"])
def test_logits_are_those_of_deepminds_package(tmp_path, name):
    transformer = pytest.importorskip("gemma.transformer", reason="gemma-llm is not installed")
    import jax.numpy as jnp
    from gemma import params as deepmind

    model = cases.make(name)
    place = saved(flat(flax_tree(model)), tmp_path / "x")
    params = deepmind.load_and_format_params(str(place))
    config = transformer.TransformerConfig.from_params(params)
    token_ids = cases.inputs()["token_ids"]
    length = token_ids.shape[1]
    expected, _ = transformer.Transformer(config).apply(
        {"params": params["transformer"]},
        jnp.asarray(token_ids),
        jnp.broadcast_to(jnp.arange(length), token_ids.shape),
        None,
        jnp.broadcast_to(
            jnp.tril(jnp.ones((length, length), bool)), (len(token_ids), length, length)
        ),
    )
    task = GemmaCausalLM(GemmaBackbone.from_preset(place, dtype="float32"), preprocessor=None)
    batch = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    close(task(batch), np.asarray(expected), 1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small folder, of 256,128 rows as DeepMind's table has them."""
    model = cases.make("multi-query", num_layers=1)
    tree = flax_tree(model)
    table = np.zeros((256_128, 24), "float16")
    table[:96] = tree["embedder"]["input_embedding"]
    tree["embedder"]["input_embedding"] = table
    place = tmp_path_factory.mktemp("orbax") / "2b"
    return saved(flat(tree), place)


@pytest.fixture
def place(made, tmp_path):
    return shutil.copytree(made, tmp_path / "2b")


@pytest.mark.once
def test_the_empty_rows_of_the_table_are_left_out(place):
    found = open_checkpoint(place)
    assert found.config["vocabulary_size"] == 256_000
    assert found.tensors.read("embedder/input_embedding").shape == (256_000, 24)
    assert found.config["dtype"] == "float16"
    assert open_checkpoint(place, load_weights=False).tensors is None


@pytest.mark.once
def test_the_vocabulary_lies_in_the_folder_or_one_up(place):
    assert not orbax.has_vocabulary(place)
    with pytest.raises(BadPresetError, match="no tokenizer.model"):
        orbax.vocabulary(place)
    (place.parent / "tokenizer.model").write_bytes(b"up")
    assert orbax.vocabulary(place) == orbax.vocabulary(place.parent) == b"up"
    (place / "tokenizer.model").write_bytes(b"in")
    assert orbax.vocabulary(place) == b"in"


@pytest.mark.once
def test_without_tensorstore_the_line_of_pip_is_told(place, monkeypatch):
    load = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "tensorstore":
            raise ImportError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(PresetError, match=re.escape('pip install "keras-gemma[orbax]"')):
        open_checkpoint(place)


@pytest.mark.once
def test_what_does_not_fit_is_named(tmp_path):
    model = cases.make("multi-query", num_layers=1)
    for number, (change, told_) in enumerate(
        (
            (lambda t: t.update(lora={"w": np.ones(3, "float32")}), "lora/w .* is unknown"),
            (lambda t: t["layer_0"]["mlp"].pop("linear"), "layer_0/mlp/linear is missing"),
            (
                lambda t: t["layer_0"]["pre_ffw_norm"].pop("scale"),
                "pre_ffw_norm/scale .* is missing",
            ),
            (lambda t: t.update(lora={"w": np.ones(3)}), "lora/w holds <f8, which are no weights"),
            (lambda t: t.update(layer_5={"x": np.ones(2, "float32")}), "is missing"),
        )
    ):
        tree = flax_tree(model)
        change(tree)
        place = saved(tree, tmp_path / str(number))
        with pytest.raises(BadPresetError, match=told_):
            open_checkpoint(place)


def metadata(place):
    """One array's description, in a folder of the older kind."""
    return next(place.rglob("*attn_vec_einsum*/.zarray"))


@pytest.fixture
def folders(tmp_path):
    """The older kind, whose descriptions are files that can be changed."""
    tree = flat(flax_tree(cases.make("multi-query", num_layers=1)))
    return saved(tree, tmp_path / "old", "folders")


@pytest.mark.once
@pytest.mark.parametrize(
    "changes, told_",
    [
        ({"shape": [2**16, 2**16], "chunks": [2**16, 2**16]}, "parts stored|claims"),
        ({"shape": [32768, 32768, 1], "chunks": [32768, 32768, 1]}, "claims 4294967296 bytes"),
        ({"shape": [40, 8, 24]}, "1 parts stored, 10 awaited"),
        ({"shape": [0, 8, 24]}, "no shape that can be"),
        ({"shape": [2**62, 2**62, 2**62]}, "no shape that can be"),
        ({"shape": "x"}, "truncated or damaged|no shape"),
        ({"chunks": [4, 8, 1]}, "awaited"),
        ({"dtype": "|O"}, "float|damaged|holds"),
    ],
)
def test_what_is_claimed_and_not_stored_is_refused_before_it_is_read(folders, changes, told_):
    file = metadata(folders)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(BadPresetError, match=told_):
        open_checkpoint(folders)


@pytest.mark.once
def test_links_that_lead_out_are_refused(folders, tmp_path):
    (tmp_path / "secret").write_bytes(b"1")
    (folders / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(BadPresetError, match="link that leads out"):
        open_checkpoint(folders)


@pytest.mark.once
def test_a_part_that_is_missing_or_damaged_is_told(folders):
    part = next(path for path in metadata(folders).parent.iterdir() if path.name != ".zarray")
    part.write_bytes(part.read_bytes()[:5])
    found = open_checkpoint(folders)
    with pytest.raises(BadPresetError, match="truncated or damaged"):
        found.tensors.read("layer_0/attn/attn_vec_einsum/w")
    part.unlink()
    with pytest.raises(BadPresetError, match="0 parts stored, 1 awaited"):
        open_checkpoint(folders)


def read_whole(place):
    found = open_checkpoint(place)
    for name in found.tensors.headers():
        found.tensors.read(name)


def damaged(folder, seeds):
    """Mutate each file of a folder in turn, all others whole."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("_sharding",)]
    for number, file in enumerate(sorted(files)):
        data = file.read_bytes()
        survived(file, data, lambda _: read_whole(folder), seeds[number :: len(files)])
        file.write_bytes(data)


@pytest.mark.once
@pytest.mark.parametrize("how", ["ocdbt", "folders"])
def test_damaged_at_random_it_is_refused_or_read(tmp_path, how):
    tree = flat(flax_tree(cases.make("multi-query", num_layers=1)))
    damaged(saved(tree, tmp_path / "x", how), range(150))


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("how", ["ocdbt", "folders", "zarr3"])
def test_damaged_at_random_ten_thousand_times(tmp_path, how):
    tree = flat(flax_tree(cases.make("multi-query", num_layers=1)))
    damaged(saved(tree, tmp_path / "x", how), range(150, 10_150))
