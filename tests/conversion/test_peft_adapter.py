"""Adapters of PEFT as they are: read, and written so that PEFT computes the same."""

import json

import numpy as np
import pytest
from cases import inputs, logits, make
from conftest import close
from huggingface_examples import source

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma import Gemma3CausalLM, GemmaCausalLM
from keras_gemma.presets import BadPresetError

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore")]
KINDS = "grouped", "multi-query", "Gemma 3"
ALL = ["query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of Transformers: with two key heads, with one, and with norms on all sides."""
    home = tmp_path_factory.mktemp("bases")
    for name in KINDS:
        huggingface.save(home / name, source(make(name)))
    return home


def lm_of(folder):
    kind = Gemma3CausalLM if folder.name == "Gemma 3" else GemmaCausalLM
    return kind.from_preset(folder)


REAL = inputs()["padding_mask"][:, :, None]


def ours(lm):
    return REAL * np.asarray(logits(lm, inputs()))


def theirs(base, folder):
    """What PEFT computes of an adapter in a folder."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    adapted, batch = peft.PeftModel.from_pretrained(model, folder).eval(), inputs()
    with torch.no_grad():
        return (
            REAL
            * adapted(
                input_ids=torch.tensor(batch["token_ids"]).long(),
                attention_mask=torch.tensor(batch["padding_mask"]).long(),
            ).logits.numpy()
        )


def made_by_peft(base, folder, **options):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    config = peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand(parameter.shape)
    adapted.save_pretrained(folder)


OPTIONS = [
    {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    {"target_modules": "all-linear", "r": 3, "use_rslora": True},
    {"target_modules": "all-linear", "r": 2, "lora_alpha": 5, "use_dora": True},
    {
        "target_modules": ["q_proj", "o_proj"],
        "r": 2,
        "rank_pattern": {"layers.0.self_attn.q_proj": 5},
    },
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_is_read_and_written_back_as_peft_computes_it(tmp_path, bases, name, options):
    made_by_peft(bases / name, tmp_path / "lora", **options)
    expected, lm = theirs(bases / name, tmp_path / "lora"), lm_of(bases / name)
    plain = ours(lm)
    lm.backbone.load_lora_weights(tmp_path / "lora")
    close(ours(lm), expected, 1e-4)
    assert not np.allclose(plain, expected, atol=0.05)
    lm.backbone.save_lora_weights(tmp_path / "again", format="peft", base=str(bases / name))
    close(theirs(bases / name, tmp_path / "again"), expected, 1e-4)
    lm.backbone.load_lora_weights(tmp_path / "again", name="again")
    close(ours(lm), expected, 1e-4)
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert config["r"] == options["r"] and config["lora_dropout"] == options.get("lora_dropout", 0)


@pytest.mark.parametrize("way", [{"alpha": 6}, {"use_dora": True}, {"use_rslora": True}])
def test_an_a_for_each_head_becomes_one_for_all(tmp_path, bases, way):
    lm, random = lm_of(bases / "grouped"), np.random.default_rng(0)
    lm.backbone.enable_lora(2, ALL, **way)
    for variable in lm.backbone.trainable_variables:
        variable.assign(random.normal("magnitude" in variable.name, 0.3, variable.shape))
    lm.backbone.save_lora_weights(tmp_path / "lora", format="peft", base=str(bases / "grouped"))
    expected = ours(lm)
    close(theirs(bases / "grouped", tmp_path / "lora"), expected, 1e-4)
    close(ours(GemmaCausalLM.from_preset(tmp_path / "lora")), expected, 1e-4)
    again = lm_of(bases / "grouped")
    again.backbone.load_lora_weights(tmp_path / "lora")
    close(ours(again), expected, 1e-4)


def test_what_does_not_fit_is_refused(tmp_path, bases):
    options = {"target_modules": ["q_proj", "k_proj"], "r": 2}
    made_by_peft(bases / "grouped", tmp_path / "lora", **options)
    with pytest.raises(BadPresetError, match=r"k_proj.* has shape \(16, 2\); awaited \(8, 2\)"):
        lm_of(bases / "multi-query").backbone.load_lora_weights(tmp_path / "lora")
    lm = lm_of(bases / "grouped")
    lm.backbone.enable_lora(2, ["query", "key"])
    with pytest.raises(
        BadPresetError, match="one A for all heads on key, query .* here is LoRA of rank 2"
    ):
        lm.backbone.load_lora_weights(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").unlink()
    with pytest.raises(BadPresetError, match="adapter_config.json"):
        lm.backbone.load_lora_weights(tmp_path / "lora", name="b")
