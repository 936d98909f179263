"""DeepMind's PyTorch checkpoints, there and back, and what they compute."""

import json
from pathlib import Path

import cases
import numpy as np
import pytest
from conftest import close, once_but

import keras_gemma.conversion.gemma_pytorch.checkpoint as gemma_pytorch
from keras_gemma import export_checkpoint
from keras_gemma.conversion.formats import format_of, open_checkpoint
from keras_gemma.conversion.from_shapes import DEFAULTS, Seen, architecture
from keras_gemma.presets import BadPresetError, registry

torch = pytest.importorskip("torch", reason="torch is not installed")

NAMES = [
    "multi-query",
    "grouped",
    "multi-head, wider than the model",
    "Gemma 2",
    "Gemma 2 27B's scale",
    *cases.GEMMA3,
]


@pytest.fixture
def exported(tmp_path):
    def export(name, **options):
        model = cases.make(name)
        path = export_checkpoint(model, tmp_path / "gemma.ckpt", dtype="float32", **options)
        return model, path

    return export


def again(model, place):
    return type(model.backbone).from_preset(place, dtype="float32")


def equal(ours, theirs):
    assert [v.path for v in ours.variables] == [v.path for v in theirs.variables]
    for one, other in zip(ours.variables, theirs.variables):
        assert np.array_equal(np.asarray(one), np.asarray(other)), one.path


@pytest.mark.parametrize("name", once_but(NAMES, "Gemma 3"))
def test_there_and_back_is_the_same_model(exported, name):
    model, path = exported(name)
    assert format_of(path) == "gemma_pytorch"
    back = again(model, path)
    equal(model.backbone, back)
    ours, theirs = model.backbone.get_config(), back.get_config()
    skipped = ("name", "dtype")
    assert {k: v for k, v in ours.items() if k not in skipped} == {
        k: v for k, v in theirs.items() if k not in skipped
    }


@pytest.mark.parametrize("name", once_but(NAMES, "Gemma 3"))
def test_what_we_wrote_gives_the_same_logits_by_deepminds_formula(exported, name):
    import gemma_pytorch_reference

    model, path = exported(name)
    found = torch.load(path, weights_only=True, mmap=True)
    token_ids = cases.inputs()["token_ids"]
    expected = gemma_pytorch_reference.logits(
        found["model_state_dict"], found["config"], torch.tensor(token_ids).long()
    )
    batch = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    close(model(batch), expected.numpy(), 1e-4)


def deepmind(path, quantized=False, embedder="embedder.weight", **changes):
    """A tiny Gemma as DeepMind's own code saves it: with angles, without a configuration."""
    V, D, N, K, H, F, L = 64, 16, 2, 1, 256, 24, 2
    shapes = {embedder: (V, D), "model.norm.weight": (D,)}
    for i in range(L):
        here = f"model.layers.{i}."
        shapes |= {
            f"{here}self_attn.qkv_proj.weight": ((N + 2 * K) * H, D),
            f"{here}self_attn.o_proj.weight": (D, N * H),
            f"{here}mlp.gate_proj.weight": (F, D),
            f"{here}mlp.up_proj.weight": (F, D),
            f"{here}mlp.down_proj.weight": (D, F),
            f"{here}input_layernorm.weight": (D,),
            f"{here}post_attention_layernorm.weight": (D,),
        }
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in (shapes | changes).items():
        if shape is None:
            continue
        tensors[name] = torch.randn(shape, generator=random).bfloat16()
        if quantized and len(shape) == 2:
            tensors[name] = torch.randint(-127, 128, shape, generator=random).to(torch.int8)
            tensors[f"{name}_scaler"] = torch.rand(shape[0], generator=random)
    tensors["freqs_cis"] = torch.ones(8, H // 2, dtype=torch.complex64)
    if path.suffix:
        torch.save({"model_state_dict": tensors}, path)
    return tensors


@pytest.mark.once
def test_the_architecture_follows_from_the_shapes(tmp_path):
    path = tmp_path / "gemma.ckpt"
    deepmind(path)
    found = open_checkpoint(path)
    assert found.backbone == "GemmaBackbone"
    assert found.config == {
        "vocabulary_size": 64,
        "num_layers": 2,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dim": 16,
        "intermediate_dim": 48,
        "head_dim": 256,
        "dtype": "bfloat16",
    }
    assert open_checkpoint(path, load_weights=False).tensors is None
    assert open_checkpoint(tmp_path).config == found.config


CARDS = {name: registry.card(name) for name in registry.names()}
PUBLISHED_CARDS = [name for name, card in CARDS.items() if "tiny" not in name]


@pytest.mark.once
@pytest.mark.parametrize("name", PUBLISHED_CARDS)
def test_of_a_published_size_shapes_tell_all_that_its_card_says(name):
    card = CARDS[name]
    backbone, said = card["backbone"], card["architecture"]
    gemma3, H = backbone == "Gemma3Backbone", said["head_dim"]
    seen = Seen(
        said["vocabulary_size"],
        said["num_layers"],
        said["hidden_dim"],
        said["intermediate_dim"] // (1 if gemma3 else 2),
        said["num_query_heads"] * H,
        said["num_key_value_heads"] * H,
        H if gemma3 else None,
        said.get("use_post_ffw_norm", False),
        gemma3,
    )
    same, found = architecture(seen, Path("gemma.ckpt"))
    assert same == backbone
    every = {name: found.get(name, default) for name, default in DEFAULTS.items()} | found
    wanted = {name: said.get(name, default) for name, default in DEFAULTS.items()} | dict(said)
    if not wanted["use_sliding_window_attention"]:
        every.pop("sliding_window_size"), wanted.pop("sliding_window_size")
    assert {k: v for k, v in every.items() if k in wanted} == wanted


@pytest.mark.once
def test_shards_and_their_index_are_read(tmp_path):
    tensors = deepmind(tmp_path / "whole")
    names = list(tensors)
    index = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-0000{number}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / gemma_pytorch.INDEX).write_text(json.dumps({"weight_map": index}))
    assert format_of(tmp_path) == "gemma_pytorch"
    found = open_checkpoint(tmp_path)
    for name in names[:-1]:
        read = found.tensors.read(name)
        assert np.array_equal(read.astype("float32"), tensors[name].float().numpy())
    (tmp_path / "model-00002-of-00002.bin").unlink()
    with pytest.raises(BadPresetError, match="has no model-00002-of-00002.bin"):
        open_checkpoint(tmp_path)
    (tmp_path / gemma_pytorch.INDEX).write_text(
        json.dumps({"weight_map": {"embedder.weight": "../x.bin"}})
    )
    with pytest.raises(BadPresetError, match="lie in the folder itself"):
        open_checkpoint(tmp_path)


@pytest.mark.once
def test_an_index_of_transformers_is_left_to_others(tmp_path):
    table = {"weight_map": {"model.embed_tokens.weight": "a.bin"}}
    (tmp_path / gemma_pytorch.INDEX).write_text(json.dumps(table))
    assert not gemma_pytorch.recognizes(tmp_path)


@pytest.mark.once
def test_int8_weights_come_with_their_scales(tmp_path):
    tensors = deepmind(tmp_path / "q.ckpt", quantized=True)
    found = open_checkpoint(tmp_path / "q.ckpt")
    assert found.config["dtype"] == "float32"
    for name in ("embedder.weight", "model.layers.1.self_attn.qkv_proj.weight"):
        expected = tensors[name].float() * tensors[f"{name}_scaler"][:, None]
        assert np.array_equal(found.tensors.read(name), expected.numpy())


@pytest.mark.once
def test_the_text_part_of_a_model_that_reads_images_is_read(tmp_path):
    path = tmp_path / "gemma.ckpt"
    deepmind(
        path,
        embedder="text_token_embedder.weight",
        **{"siglip_vision_model.x.weight": (3, 4), "mm_input_projection.weight": (2, 2)},
    )
    assert open_checkpoint(path).config["vocabulary_size"] == 64


@pytest.mark.once
@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model.layers.0.self_attn.o_proj.weight": (16, 500)}, 'says "head_dim"'),
        ({"model.layers.0.self_attn.o_proj.weight": None}, "o_proj.weight is missing"),
        ({"model.layers.1.mlp.up_proj.weight": (23, 16)}, r"up_proj.weight has shape \(23, 16\)"),
        ({"model.layers.1.mlp.up_proj.weight": None}, "up_proj.weight .* is missing"),
        ({"model.layers.0.lora.weight": (2,)}, "lora.weight .* is unknown"),
        ({"model.layers.900.x.weight": (2,)}, "num_layers=901"),
        ({"embedder.weight": None}, "holds no tensor embedder.weight or text_token"),
        (
            {"model.layers.0.pre_feedforward_layernorm.weight": (16,)},
            'is of no published Gemma.*config.json beside it that says "sliding_window_size"',
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, told):
    deepmind(tmp_path / "gemma.ckpt", **changes)
    with pytest.raises(BadPresetError, match=told):
        open_checkpoint(tmp_path / "gemma.ckpt")


@pytest.mark.once
def test_a_configuration_beside_tells_what_shapes_do_not(tmp_path):
    path = tmp_path / "gemma.ckpt"
    norms = {
        f"model.layers.{i}.{name}_feedforward_layernorm.weight": (16,)
        for i in range(2)
        for name in ("pre", "post")
    }
    deepmind(path, **norms)
    said = {"head_dim": 128, "sliding_window": 7, "query_pre_attn_scalar": 4, "vocab_size": 1}
    (tmp_path / "config.json").write_text(json.dumps(said))
    config = open_checkpoint(path).config
    assert config["num_query_heads"], config["num_key_value_heads"] == (4, 2)
    assert (config["sliding_window_size"], config["query_head_dim_normalize"]) == (7, False)
    (tmp_path / "config.json").write_text(json.dumps({**said, "query_pre_attn_scalar": 5}))
    with pytest.raises(BadPresetError, match="query_pre_attn_scalar=5 must be the width of a head"):
        open_checkpoint(path)
    (tmp_path / "config.json").write_text(json.dumps({**said, "sliding_window": "x"}))
    with pytest.raises(BadPresetError, match="sliding_window_size='x' must be a whole number"):
        open_checkpoint(path)


@pytest.mark.once
def test_several_checkpoints_in_a_folder_are_told(tmp_path):
    for name in ("a.ckpt", "b.ckpt"):
        deepmind(tmp_path / name)
    with pytest.raises(BadPresetError, match="holds 2 checkpoints; name one: a.ckpt"):
        open_checkpoint(tmp_path)


@pytest.mark.once
def test_the_vocabulary_lies_beside(exported, tokenizer):
    from keras_gemma import GemmaCausalLM, GemmaCausalLMPreprocessor

    model, _ = exported("grouped")
    task = GemmaCausalLM(model.backbone, preprocessor=GemmaCausalLMPreprocessor(tokenizer))
    path = _.with_name("more.ckpt")
    export_checkpoint(task, path)
    assert gemma_pytorch.has_vocabulary(path)
    assert gemma_pytorch.vocabulary(path) == tokenizer.proto
    export_checkpoint(task, path)  # the same vocabulary: nothing to refuse
    path.with_name("tokenizer.model").write_bytes(b"other")
    with pytest.raises(ValueError, match="tokenizer.model is of another model"):
        export_checkpoint(task, path)


@pytest.mark.parametrize(
    "name, told",
    [("window", "use_sliding_window_attention=True"), ("final cap", "final_logit_soft_cap=30.0")],
)
def test_a_model_that_deepmind_has_not_is_refused(exported, name, told):
    with pytest.raises(ValueError, match=f"no GemmaBackbone with {told}"):
        exported(name)


@pytest.mark.once
def test_numbers_that_are_not_written_are_told(tmp_path):
    with pytest.raises(ValueError, match="dtype='q8_0' is not written"):
        export_checkpoint(cases.make("grouped"), tmp_path / "x.ckpt", dtype="q8_0")
