"""Training equals a plain loop of PyTorch over Transformers' model: loss, gradients, and fifty steps of AdamW."""

import cases
import keras
import numpy as np
import pytest
from conftest import close, once_but
from transformers_models import copied, in_their_layout, theirs, torch

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.data.skills import SKILLS, questions
from keras_gemma.optimizers import AdamW

STEPS, ROWS, LENGTH = 50, 4, 96
WEIGHT_DECAY, CLIP = 0.1, 1.0


def _pairs(step):
    """Questions and answers, of unlike lengths, another few in each step."""
    names = sorted(set(SKILLS) - {"other question"})  # whose answer is long
    skills = [names[(step * ROWS + row) % len(names)] for row in range(ROWS)]
    asked = [questions(skill, seed=step, count=1, held_out=False)[0] for skill in skills]
    return [pair.question for pair in asked], [pair.answer for pair in asked]


def texts(step):
    """What ours trains on, and its parts: none of a text is a prompt."""
    whole = [f"{question} {answer}" for question, answer in zip(*_pairs(step))]
    return whole, [("", text) for text in whole]


def pairs(step):
    """Prompts are read and not learned."""
    prompts, responses = _pairs(step)
    return {"prompts": prompts, "responses": responses}, [*zip(prompts, responses)]


def plain_batch(tokenizer, parts):
    """Ids, mask and labels of a step, padded on the right, as for Transformers."""
    rows, labels = [], []
    for prompt, response in parts:
        read, learned = [2, *tokenizer.encode(prompt)], [*tokenizer.encode(response), 1]
        rows.append(read + learned)
        labels.append([-100] * len(read) + learned)
    longest = max(map(len, rows))

    def padded(lists, value):
        return torch.tensor([row + [value] * (longest - len(row)) for row in lists])

    mask = padded([[1] * len(row) for row in rows], 0)
    return {"input_ids": padded(rows, 0), "attention_mask": mask, "labels": padded(labels, -100)}


@pytest.fixture
def twins(tokenizer):
    """Our model with a preprocessor, and theirs with the same weights."""
    keras.utils.set_random_seed(1)
    size = tokenizer.vocabulary_size()
    backbone = GemmaBackbone(**{**cases.arguments("grouped"), "vocabulary_size": size})
    ours = GemmaCausalLM(backbone, GemmaCausalLMPreprocessor(tokenizer, LENGTH))
    return ours, copied(ours, theirs("grouped", vocabulary_size=size)).train()


def losses(ours, reference, tokenizer, data, rate):
    """Of each step, on our side and on theirs; both have taken all steps then."""
    ours.compile(AdamW(rate, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP))
    weights = [weight for weight in reference.parameters() if weight.requires_grad]
    plain = torch.optim.AdamW(weights, rate, weight_decay=WEIGHT_DECAY)
    got, wanted = [], []
    for step in range(STEPS):
        batch, parts = data(step)
        x, y, counts = ours.preprocessor(batch)
        plain_inputs = plain_batch(tokenizer, parts)
        assert counts.sum() == (plain_inputs["labels"][:, 1:] >= 0).sum()  # none was cut
        ours.reset_metrics()  # or it would tell the mean of all steps
        got.append(ours.train_on_batch(x, y, counts, return_dict=True)["loss"])
        loss = reference(**plain_inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        plain.step()
        plain.zero_grad(set_to_none=True)
        wanted.append(loss.item())
    return np.array(got, "float64"), np.array(wanted)


@pytest.mark.parametrize("data", once_but([texts, pairs], pairs))
def test_fifty_steps_of_adamw_lose_what_a_plain_loop_loses(twins, tokenizer, data):
    got, wanted = losses(*twins, tokenizer, data, rate=2e-3)
    assert wanted[-1] < 0.8 * wanted[0]  # it learns, so that a step left out would show
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


KINDS = [{}, {"use_rslora": True, "use_dora": True}]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("kind", once_but(KINDS, KINDS[1]))
def test_fifty_steps_of_adapters_lose_what_peft_loses(twins, tokenizer, tmp_path, kind):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    ours, reference = twins
    modules = ["q_proj", "v_proj", "o_proj", "down_proj"]
    options = peft.LoraConfig(r=4, lora_alpha=8, target_modules=modules, **kind)
    reference = peft.get_peft_model(reference, options)
    reference.save_pretrained(tmp_path)
    ours.backbone.load_lora_weights(tmp_path)  # the same first numbers
    got, wanted = losses(ours, reference, tokenizer, pairs, rate=5e-3)
    assert wanted[-10:].mean() < 0.95 * wanted[:10].mean()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["grouped", "Gemma 2", "Gemma 3"])
def test_gradients_equal(name):
    ours, batch = cases.make(name), cases.inputs()
    for variable in ours.backbone.variables:
        # At their loudest, float32 itself leaves 6e-5 of a gradient of Gemma 3's seven layers.
        variable.assign(0.1 * variable)
    reference = copied(ours, theirs(name)).train()
    ids, mask = (torch.tensor(batch[key]).long() for key in ("token_ids", "padding_mask"))
    counts = mask.clone()
    counts[:, :6] = 0  # a prompt
    reference(
        input_ids=ids, attention_mask=mask, labels=ids.masked_fill(counts == 0, -100)
    ).loss.backward()
    wanted = {key: weight.grad.numpy() for key, weight in reference.named_parameters()}
    got = in_their_layout(gradients(ours, batch, counts.numpy()))
    assert set(got) == set(wanted)
    for key, gradient in got.items():
        close(gradient, wanted[key], 1e-5)


def gradients(model, batch, counts):
    """By path: the first step of SGD leaves them, as they are but for the sign, in its momentum."""
    model.compile(keras.optimizers.SGD(1.0, momentum=0.5))
    labels = np.roll(batch["token_ids"], -1, axis=1)
    weights = np.roll(counts, -1, axis=1)
    weights[:, -1] = 0
    model.train_on_batch(batch, labels, weights)
    slots = model.optimizer.momentums
    return {
        variable.path: -keras.ops.convert_to_numpy(slot)
        for variable, slot in zip(model.trainable_variables, slots)
    }
