"""The same weights give the same logits as Transformers' Gemma, Gemma 2 and Gemma 3."""

import cases
import pytest
from conftest import close
from transformers_models import copied, theirs, torch

NAMES = [
    "multi-query",
    "grouped",
    "multi-head, wider than the model",
    *(name for name in cases.GEMMA if name.startswith("Gemma 2")),
    *cases.GEMMA3,
]


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal(name):
    ours, batch = cases.make(name), cases.inputs()
    reference = copied(ours, theirs(name))
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["padding_mask"]).long(),
        ).logits.numpy()
    close(ours(batch), expected, 2e-5, where=batch["padding_mask"][:, :, None])
