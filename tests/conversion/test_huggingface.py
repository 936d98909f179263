# ruff: noqa: F401, F811 (fixtures are imported by name)
"""Folders of Transformers: what it wrote we read, what we write it reads, with the same logits."""

import math

import keras
import numpy as np
import pytest
from cases import GEMMA3, inputs, logits, make
from conftest import close, once_but
from huggingface_examples import (
    NAMES,
    configured,
    folder,
    proto,
    quiet,
    source,
    task,
    transformers,
    written,
)
from safetensors.numpy import save_file

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma import Gemma3CausalLM, GemmaCausalLM
from keras_gemma.arrays import fetch
from keras_gemma.conversion.formats import open_checkpoint
from keras_gemma.conversion.huggingface.safetensors_file import SafetensorsTensors
from keras_gemma.presets import BadPresetError


def rewrite(folder, change):
    """Write the weights anew, by a function of their dictionary."""
    tensors = SafetensorsTensors(folder / "model.safetensors")
    save_file(change({n: tensors.read(n) for n in tensors.headers()}), tensors.path)


# --- there and back ---


@pytest.mark.parametrize("name", once_but(NAMES, "Gemma 3"))
def test_what_is_written_comes_back_bit_for_bit(written, name):
    model = make(name)
    read = task(name).from_preset(written(name))
    for ours, theirs in zip(model.backbone.variables, read.backbone.variables, strict=True):
        np.testing.assert_array_equal(fetch(ours), fetch(theirs), err_msg=ours.path)
    close(logits(read, inputs()), logits(model, inputs()), 0)
    given, got = model.backbone.get_config(), read.backbone.get_config()
    drop = {"name", "dtype"} | ({"sliding_window_size"} if "Gemma" not in name else set())
    assert {k: v for k, v in got.items() if k not in drop} == {
        k: v for k, v in given.items() if k not in drop
    }


def test_numbers_are_stored_as_asked_and_loaded_as_asked(tmp_path):
    model = make("grouped")
    huggingface.save(tmp_path / "m", source(model, dtype="bfloat16"))
    opened = open_checkpoint(tmp_path / "m")
    assert {stored.dtype for stored in opened.tensors.headers().values()} == {"bfloat16"}
    assert opened.config["dtype"] == configured(tmp_path / "m")["torch_dtype"] == "bfloat16"
    read = GemmaCausalLM.from_preset(tmp_path / "m", dtype="bfloat16")
    for ours, theirs in zip(model.backbone.variables, read.backbone.variables, strict=True):
        np.testing.assert_array_equal(fetch(ours).astype("bfloat16"), fetch(theirs))


@pytest.mark.once
def test_shards_are_read_as_one_file_is(tmp_path, written):
    model = make("grouped")
    huggingface.save(tmp_path / "m", source(model), max_shard_bytes=20_000)
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 2
    read = GemmaCausalLM.from_preset(tmp_path / "m")
    close(logits(read, inputs()), logits(model, inputs()), 0)


@pytest.mark.once
def test_a_folder_that_exists_is_replaced_whole_and_keeps_what_is_not_its_own(tmp_path):
    model = make("grouped")
    huggingface.save(tmp_path, source(model), max_shard_bytes=20_000)
    (tmp_path / "README.md").write_text("mine")
    huggingface.save(tmp_path, source(model))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "config.json", "generation_config.json", "model.safetensors"}


@pytest.mark.once
def test_a_write_that_fails_leaves_the_old_folder(tmp_path):
    model = make("grouped")
    huggingface.save(tmp_path / "m", source(model))
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def fails(path):
        raise OSError("disk full")

    for place in ("m", "new"):
        with pytest.raises(OSError, match="disk full"):
            huggingface.save(tmp_path / place, source(model)._replace(read=fails))
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.once
def test_a_preset_of_keras_hub_is_not_written_over(tmp_path):
    model = make("grouped")
    model.save_to_preset(tmp_path / "m")
    with pytest.raises(ValueError, match="holds a preset of KerasHub"):
        huggingface.save(tmp_path / "m", source(model))


@pytest.mark.once
@pytest.mark.parametrize(
    "name, field",
    [
        ("window", "use_sliding_window_attention"),
        ("attention cap", "attention_logit_soft_cap"),
        ("final cap", "final_logit_soft_cap"),
        ("norm after attention", "use_post_ffw_norm"),
    ],
)
def test_a_model_that_transformers_has_not_is_refused_by_its_option(tmp_path, name, field):
    with pytest.raises(ValueError, match=f"no Gemma like this GemmaBackbone.*{field}"):
        huggingface.save(tmp_path / "m", source(make(name)))
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_block_formats_are_not_for_this_folder(tmp_path):
    with pytest.raises(ValueError, match="not q8_0"):
        huggingface.save(tmp_path / "m", source(make("grouped"), dtype="q8_0"))


# --- against other readers ---


def theirs_logits(transformers, folder, batch):
    import torch

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype="float32"
    ).eval()
    with torch.no_grad():
        return model, model(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["padding_mask"]).long(),
        ).logits.numpy()


@pytest.mark.parametrize("name", once_but(NAMES, "Gemma 3"))
def test_transformers_reads_what_is_written_and_we_read_what_it_writes(
    transformers, quiet, written, tmp_path, name
):
    batch, mask = inputs(), inputs()["padding_mask"][:, :, None]
    expected = logits(make(name), batch)
    model, got = theirs_logits(transformers, written(name), batch)
    close(got, expected, 2e-5, where=mask)
    assert np.abs((got - expected) * mask).max() <= 1e-4 * max(1, np.abs(expected).max())
    model.save_pretrained(tmp_path / "theirs")
    read = task(name).from_preset(tmp_path / "theirs")
    for ours, theirs in zip(make(name).backbone.variables, read.backbone.variables, strict=True):
        np.testing.assert_array_equal(fetch(ours), fetch(theirs), err_msg=ours.path)
    close(logits(read, batch), expected, 0)


@pytest.mark.once
def test_transformers_reads_shards(transformers, quiet, tmp_path):
    model, batch = make("grouped"), inputs()
    huggingface.save(tmp_path / "m", source(model), max_shard_bytes=20_000)
    _, got = theirs_logits(transformers, tmp_path / "m", batch)
    close(got, logits(model, batch), 2e-5, where=batch["padding_mask"][:, :, None])


@pytest.mark.once
def test_transformers_reads_a_scaled_window_of_gemma_3(transformers, quiet, tmp_path):
    model = make("Gemma 3, long", local_rope_scaling_factor=2.0)
    huggingface.save(tmp_path / "m", source(model))
    batch = inputs()
    _, got = theirs_logits(transformers, tmp_path / "m", batch)
    close(got, logits(model, batch), 2e-5, where=batch["padding_mask"][:, :, None])
    close(logits(Gemma3CausalLM.from_preset(tmp_path / "m"), batch), logits(model, batch), 0)


@pytest.mark.once
def test_a_gemma_3_that_reads_images_gives_its_text_model(transformers, tmp_path):
    text = {
        "vocab_size": 96,
        "hidden_size": 24,
        "intermediate_size": 64,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95
    )
    reference = transformers.Gemma3ForConditionalGeneration(config).eval()
    reference.save_pretrained(tmp_path)
    ours, batch = Gemma3CausalLM.from_preset(tmp_path), inputs()
    batch["token_ids"] %= 95
    import torch

    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["padding_mask"]).long(),
        ).logits.numpy()
    close(logits(ours, batch), expected, 2e-5, where=batch["padding_mask"][:, :, None])


@pytest.mark.once
def test_keras_hub_reads_what_is_written(tmp_path, proto):
    keras_hub = pytest.importorskip("keras_hub", reason="keras_hub is not installed")
    for name in ("multi-query", "multi-head, wider than the model", "Gemma 2", "Gemma 3, long"):
        model = make(name, vocabulary_size=512)
        huggingface.save(tmp_path / name, source(model, proto))
        kind = keras_hub.models.Gemma3Backbone if name in GEMMA3 else keras_hub.models.GemmaBackbone
        theirs = kind.from_preset(str(tmp_path / name), dtype="float32")
        batch = inputs()
        got = keras.ops.convert_to_numpy(theirs(batch))
        expected = keras.ops.convert_to_numpy(model.backbone(batch))
        close(got, expected, 2e-5, where=batch["padding_mask"][:, :, None])


# --- names of tensors ---


@pytest.mark.once
@pytest.mark.parametrize("prefix", ["", "model.", "language_model.model.", "model.language_model."])
def test_tensors_are_found_under_each_prefix_they_are_saved_with(folder, prefix):
    rewrite(folder, lambda a: {f"{prefix}{n.removeprefix('model.')}": v for n, v in a.items()})
    close(logits(GemmaCausalLM.from_preset(folder), inputs()), logits(make("grouped"), inputs()), 0)


@pytest.mark.once
def test_a_tied_head_may_be_stored_and_must_be_the_tables_size(folder):
    rewrite(folder, lambda a: {**a, "lm_head.weight": a["model.embed_tokens.weight"]})
    close(logits(GemmaCausalLM.from_preset(folder), inputs()), logits(make("grouped"), inputs()), 0)
    rewrite(folder, lambda a: {**a, "lm_head.weight": np.zeros((97, 24), "float32")})
    with pytest.raises(BadPresetError, match=r"lm_head.weight has shape \(97, 24\).*\(96, 24\)"):
        GemmaCausalLM.from_preset(folder)


@pytest.mark.once
@pytest.mark.parametrize(
    "change, match",
    [
        (
            lambda a: {n: v for n, v in a.items() if n != "model.norm.weight"},
            r"model.norm.weight \(24,\) is missing",
        ),
        (lambda a: {**a, "model.x": a["model.norm.weight"]}, r"model.x \(24,\) is unknown"),
        (
            lambda a: {**a, "vision_tower.x": a["model.norm.weight"]},
            "vision_tower.x .* is unknown",
        ),
        (
            lambda a: {**a, "model.norm.weight": np.zeros(25, "float32")},
            r"model.norm.weight has shape \(25,\), awaited \(24,\)",
        ),
        (
            lambda a: {**a, "model.norm.weight": np.zeros(24, "int8")},
            "model.norm.weight holds int8: quantized",
        ),
        (
            lambda a: {**a, "model.norm.weight": np.full(24, math.nan, "float32")},
            "model.norm.weight is not a finite number",
        ),
        (
            lambda a: {n: v for n, v in a.items() if ".layers.1." not in n},
            "layers.1.*and 4 more",
        ),
        (lambda a: {"other": np.zeros(3, "float32")}, "other .* is unknown|is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, match):
    rewrite(folder, change)
    with pytest.raises(BadPresetError, match=match):
        GemmaCausalLM.from_preset(folder)


@pytest.mark.once
def test_pickled_weights_are_refused_with_the_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadPresetError, match="pytorch_model.bin, which is not read.*safetensors"):
        GemmaCausalLM.from_preset(folder)


@pytest.mark.once
def test_a_folder_with_two_kinds_of_weights_is_no_choice_to_guess(folder):
    (folder / "model.weights.h5").write_bytes(b"")
    with pytest.raises(BadPresetError, match="several formats: huggingface, keras_hub"):
        GemmaCausalLM.from_preset(folder)
