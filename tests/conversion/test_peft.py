"""LoRA adapters of PEFT: merged on load as PEFT merges them, or refused by name."""

import json
import math
import random

import numpy as np
import pytest
from cases import inputs, logits, make
from conftest import close
from huggingface_examples import source
from mutations import survived

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma import Gemma3CausalLM, GemmaCausalLM
from keras_gemma.arrays import fetch
from keras_gemma.conversion.formats import open_checkpoint
from keras_gemma.conversion.huggingface.safetensors_file import SafetensorsTensors
from keras_gemma.conversion.huggingface.safetensors_writer import write_file
from keras_gemma.conversion.tensors import Writable
from keras_gemma.presets import BadPresetError, PresetAccessError

pytestmark = pytest.mark.once
QUERY = "base_model.model.model.layers.{}.self_attn.q_proj"
RANK, ALPHA = 3, 6


def matrices(seed=0, rank=RANK, rows=32, columns=24, module=QUERY, layers=3):
    rng = np.random.default_rng(seed)
    made = {}
    for layer in range(layers):
        name = module.format(layer)
        made[f"{name}.lora_A.weight"] = rng.normal(size=(rank, columns)).astype("float32")
        made[f"{name}.lora_B.weight"] = rng.normal(size=(rows, rank)).astype("float32")
    return made


def put(folder, base, arrays=None, **changes):
    """An adapter as PEFT would save it."""
    folder.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj"],
        "bias": "none",
        **changes,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    arrays = matrices() if arrays is None else arrays
    write_file(
        folder / "adapter_model.safetensors",
        [Writable(n, a.shape, a.dtype.name, lambda a=a: a) for n, a in arrays.items()],
    )
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    huggingface.save(folder, source(make("grouped")))
    return folder


def query(model, layer):
    """A layer's query matrix as Transformers has it: (heads * width, model width)."""
    kernel = fetch(model.backbone.get_layer(f"decoder_block_{layer}").attention.query_dense.kernel)
    return kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])


# --- merged ---


@pytest.mark.parametrize("rslora", [False, True])
def test_a_matrix_becomes_w_plus_scale_times_b_a(tmp_path, base, rslora):
    put(tmp_path / "lora", base, use_rslora=rslora)
    merged, plain = GemmaCausalLM.from_preset(tmp_path / "lora"), GemmaCausalLM.from_preset(base)
    scale = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    for layer in range(3):
        names = (f"{QUERY.format(layer)}.lora_{part}.weight" for part in "AB")
        narrow, wide = (matrices()[name].astype("float64") for name in names)
        close(query(merged, layer), query(plain, layer) + scale * wide @ narrow, 1e-6)
    assert not np.allclose(logits(merged, inputs()), logits(plain, inputs()), atol=0.1)
    untouched = plain.backbone.get_layer("decoder_block_1").ffw_linear.kernel
    read = merged.backbone.get_layer("decoder_block_1").ffw_linear.kernel
    np.testing.assert_array_equal(fetch(read), fetch(untouched))


def test_an_adapter_without_numbers_changes_nothing(tmp_path, base):
    arrays = {name: 0 * array for name, array in matrices().items()}
    merged = GemmaCausalLM.from_preset(put(tmp_path / "lora", base, arrays))
    close(logits(merged, inputs()), logits(make("grouped"), inputs()), 0)


def test_ranks_and_scales_of_single_modules_hold(tmp_path, base):
    arrays = {**matrices(), **matrices(1, rank=2, layers=1)}
    put(
        tmp_path / "lora",
        base,
        arrays,
        rank_pattern={"layers.0.self_attn.q_proj": 2},
        alpha_pattern={"^model.layers.1.self_attn.q_proj": 9},
    )
    merged, plain = GemmaCausalLM.from_preset(tmp_path / "lora"), GemmaCausalLM.from_preset(base)
    for layer, scale in enumerate((ALPHA / 2, 9 / RANK, ALPHA / RANK)):
        narrow, wide = (arrays[f"{QUERY.format(layer)}.lora_{part}.weight"] for part in "AB")
        close(query(merged, layer), query(plain, layer) + scale * wide @ narrow, 1e-6)


def test_a_base_given_by_hand_goes_before_the_one_that_is_named(tmp_path, base):
    from keras_gemma.conversion import peft

    folder = put(tmp_path / "lora", "google/gemma-2b")
    opened = peft.open_checkpoint(folder, base=base)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert opened.tensors.headers()[name] == ((32, 24), "float32")
    assert not np.allclose(
        opened.tensors.read(name), SafetensorsTensors(base / "model.safetensors").read(name)
    )


@pytest.fixture(scope="module")
def theirs():
    """Makes a random adapter with PEFT, saves it, and merges it."""
    pytest.importorskip("torch", reason="torch is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    def make_adapter(base, folder, **options):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        config = peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **options)
        adapted = peft.get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "magnitude" in name:
                parameter.data *= 1 + 0.3 * torch.rand(parameter.shape)
        adapted.save_pretrained(folder)
        merged = adapted.merge_and_unload().eval()
        batch = inputs()
        with torch.no_grad():
            return merged(
                input_ids=torch.tensor(batch["token_ids"]).long(),
                attention_mask=torch.tensor(batch["padding_mask"]).long(),
            ).logits.numpy()

    return make_adapter


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8},
        {"target_modules": "all-linear", "r": 4, "use_rslora": True},
        {"target_modules": r".*\.(q|o|down)_proj", "r": 2, "lora_alpha": 7},
        {"target_modules": ["o_proj", "gate_proj"], "r": 4, "use_dora": True},
        {
            "target_modules": ["k_proj", "up_proj"],
            "r": 4,
            "rank_pattern": {"k_proj": 2},
            "alpha_pattern": {"layers.1.mlp.up_proj": 32},
        },
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    ],
    ids=lambda options: str(options["target_modules"]),
)
def test_logits_are_those_of_pefts_own_merge(theirs, base, tmp_path, options):
    expected, batch = theirs(base, tmp_path / "lora", **options), inputs()
    got = logits(GemmaCausalLM.from_preset(tmp_path / "lora"), batch)
    close(got, expected, 2e-5, where=batch["padding_mask"][:, :, None])


@pytest.mark.filterwarnings("ignore")
def test_gemma_3_is_adapted_as_well(theirs, tmp_path):
    huggingface.save(tmp_path / "base", source(make("Gemma 3")))
    options = {"target_modules": ["q_proj", "down_proj"], "r": 4}
    expected, batch = theirs(tmp_path / "base", tmp_path / "lora", **options), inputs()
    got = logits(Gemma3CausalLM.from_preset(tmp_path / "lora"), batch)
    close(got, expected, 2e-5, where=batch["padding_mask"][:, :, None])


# --- refused ---


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"bias": "all"}, "bias='all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save="),
        ({"trainable_token_indices": [1]}, "trainable_token_indices="),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication="),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow=1"),
        ({"r": 0}, "r=0 must be a whole number"),
        ({"r": "3"}, "r='3'"),
        ({"r": True}, "r=True"),
        ({"r": 5}, r"shape \(3, 24\); awaited \(5, 24\) for r=5"),
        ({"lora_alpha": None}, "lora_alpha=None"),
        ({"lora_alpha": math.nan}, "lora_alpha=nan"),
        ({"rank_pattern": [1]}, "rank_pattern="),
        ({"rank_pattern": {"(a|a)*b": 3}}, "rank_pattern has '.*'; only plain names"),
        ({"rank_pattern": {"q_proj": 10**9}}, "r=1000000000"),
        ({"target_modules": ["v_proj"]}, "q_proj is adapted"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path=None"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path=3"),
        ({"base_model_name_or_path": "a\x1b[0m"}, "base_model_name_or_path="),
    ],
)
def test_an_adapter_that_is_not_merged_is_refused_by_its_field(tmp_path, base, changes, match):
    folder = put(tmp_path / "lora", base, **changes)
    with pytest.raises(BadPresetError, match=match):
        open_checkpoint(folder)


HEAD = {"base_model.model.lm_head.lora_A.weight": np.zeros((RANK, 24), "float32")}
TOWER = "base_model.model.model.vision_tower.encoder.layers.{}.self_attn.q_proj"


@pytest.mark.parametrize(
    "arrays, match",
    [
        (
            matrices(rows=48),
            r"\(48, 3\); awaited \(32, 3\).*base's .* of shape \(32, 24\).*another",
        ),
        (matrices(columns=32), r"\(3, 32\); awaited \(3, 24\).*base"),
        (matrices(layers=4), "layers.3.self_attn.q_proj, which can't be merged"),
        (matrices(module=TOWER), "vision_tower.*which can't be merged"),
        (HEAD, "lm_head"),
        ({"base_model.model.model.norm.weight": np.zeros(24, "float32")}, "no part of a LoRA"),
        (dict([*matrices().items()][:1]), "awaited lora_A.weight, lora_B.weight"),
        ({}, "adapts nothing"),
    ],
)
def test_matrices_that_do_not_fit_are_named(tmp_path, base, arrays, match):
    folder = put(tmp_path / "lora", base, arrays, target_modules="all-linear")
    with pytest.raises(BadPresetError, match=match):
        open_checkpoint(folder)


def test_a_matrix_of_no_numbers_is_named(tmp_path, base):
    arrays = {name: array * np.nan for name, array in matrices().items()}
    with pytest.raises(BadPresetError, match="q_proj.weight is not a finite number"):
        GemmaCausalLM.from_preset(put(tmp_path / "lora", base, arrays))


def test_a_base_that_is_not_here_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = put(tmp_path / "lora", "nobody/nothing-there")
    with pytest.raises(PresetAccessError, match="nobody/nothing-there"):
        open_checkpoint(folder)


def test_pickled_adapters_are_refused_with_the_way_out(tmp_path, base):
    folder = put(tmp_path / "lora", base)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadPresetError, match="adapter_model.bin, which is not read"):
        open_checkpoint(folder)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_configurations_are_read_or_refused(tmp_path, base, count):
    folder, rng = put(tmp_path / "lora", base), random.Random(count)
    path = folder / "adapter_config.json"
    # The base stays: its path is of another length on each machine, and a hub would be asked for one of
    # another name.
    home = f'"base_model_name_or_path": {json.dumps(str(base))}'.encode()
    parts, outcomes = path.read_bytes().split(home), set()
    for _ in range(count):
        raw = [bytearray(part) for part in parts]
        part = raw[rng.randrange(2)]
        at = rng.randrange(len(part))
        match rng.randrange(3):
            case 0:
                part[at] = rng.randrange(256)
            case 1:
                del part[at : at + rng.randint(1, 5)]
            case 2:
                part[at:at] = rng.choice([b'"', b"0", b"null", b"[", b"-", b",", b"\\n"])
        path.write_bytes(home.join(raw))
        try:
            open_checkpoint(folder)
            outcomes.add("read")
        except (BadPresetError, PresetAccessError):
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_adapters_are_read_or_refused(tmp_path, base, count):
    folder = put(tmp_path / "lora", base, matrices(layers=1))
    path = folder / "adapter_model.safetensors"

    def read(_):
        tensors = open_checkpoint(folder).tensors
        for name in tensors.headers():
            tensors.read(name)

    read(path)
    survived(path, path.read_bytes(), read, range(count))
