"""A comparison proves something only where the numbers are large and every option shows."""

import cases
import numpy as np
import pytest
from keras import ops

from keras_gemma.layers import attention

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", [*cases.GEMMA, *cases.GEMMA3])
def test_scores_pass_50_and_logits_20(name, monkeypatch):
    largest = []

    def spy(q, k, v, queries, keys, rules, drop=None):
        k_each = ops.repeat(k, rules.num_query_heads // rules.num_key_value_heads, axis=2)
        scores = ops.einsum("btnh,bsnh->bnts", q, k_each) * rules.scale
        largest.append(np.abs(ops.convert_to_numpy(scores)).max())
        return attend(q, k, v, queries, keys, rules, drop)

    attend = attention.attend
    model = cases.make(name)
    monkeypatch.setattr(attention, "attend", spy)
    found = model.score(**cases.inputs())
    assert max(largest) > 50
    assert np.abs(ops.convert_to_numpy(found)).max() > 20


@pytest.mark.parametrize(
    "name", [name for name in (*cases.GEMMA, *cases.GEMMA3) if cases.option(name)]
)
def test_without_its_option_a_case_gives_other_logits(name):
    option = cases.option(name)
    batch = cases.inputs()
    kept = cases.logits(cases.make(name), batch)
    without = cases.logits(cases.make(name, **{option: cases.DEFAULTS[option]}), batch)
    assert np.abs(kept - without).max() > 1e-2
