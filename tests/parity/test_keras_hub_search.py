"""Beam and contrastive search find what KerasHub's find, with the same weights.

Beams are compared for prompts of one length and without ids to stop at: keras-hub 0.32 counts what
its beams would have chosen in place of a longer prompt's own tokens, and lets a beam that has
stopped go on.
"""

import cases
import numpy as np
import pytest
from conftest import loud, once_but
from keras import ops
from test_keras_hub import theirs

from keras_gemma.samplers import BeamSampler, ContrastiveSampler

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")

WIDTH = 14
TEMPERATURE = 4.0  # the likeliest token isn't always the beginning of the likeliest text


class AllBeams(keras_hub.samplers.BeamSampler):
    """Keeps what `return_all_beams` returns, since keras-hub's models can't take it."""

    def __call__(self, **arguments):
        self.token_ids, self.log_probs = super().__call__(**arguments)
        return self.token_ids[:, 0]


@pytest.fixture(scope="module")
def models():
    ours, reference = cases.make("Gemma 2"), theirs("Gemma 2")
    loud(ours.backbone, seed=3)
    for variable, theirs_ in zip(ours.variables, reference.variables):
        theirs_.assign(variable)
    return ours, reference


def prompts(*lengths):
    token_ids = cases.inputs(5, len(lengths), WIDTH)["token_ids"]
    mask = (np.arange(WIDTH) < np.array(lengths)[:, None]).astype("int32")
    return {"token_ids": token_ids * mask, "padding_mask": mask}


def asked(model, sampler, batch, stop=None):
    model.compile(sampler=sampler, run_eagerly=True)
    out = model.generate(batch, stop_token_ids=stop)
    return {name: ops.convert_to_numpy(array) for name, array in out.items()}


@pytest.mark.parametrize("count", once_but([1, 3, 5], 3))
def test_beams(models, count):
    ours, reference = models
    batch = prompts(6, 6)
    got = asked(ours, BeamSampler(count, True, temperature=TEMPERATURE), batch)
    expected = AllBeams(count, True, temperature=TEMPERATURE)
    asked(reference, expected, batch)
    assert (got["token_ids"] == ops.convert_to_numpy(expected.token_ids)).all()
    log_probs = ops.convert_to_numpy(expected.log_probs)
    np.testing.assert_allclose(got["log_probs"], log_probs, rtol=1e-4)
    best = asked(ours, BeamSampler(count, temperature=TEMPERATURE), batch)["token_ids"]
    assert (best == got["token_ids"][:, 0]).all()
    assert (best == asked(ours, "greedy", batch)["token_ids"]).all() == (count == 1)


@pytest.mark.parametrize("k, alpha", once_but([(5, 0.6), (3, 0.3)], (5, 0.6)))
def test_candidates(models, k, alpha):
    """Of prompts of unlike lengths, one of which stops before the other."""
    ours, reference = models
    batch, sampler = prompts(4, 7), ContrastiveSampler(k, alpha, temperature=TEMPERATURE)
    whole = asked(ours, sampler, batch)["token_ids"]
    stop = [int(whole[0, 6])]
    got = asked(ours, sampler, batch, stop)
    their_sampler = keras_hub.samplers.ContrastiveSampler(k, alpha, temperature=TEMPERATURE)
    expected = asked(reference, their_sampler, batch, stop)
    assert (got["padding_mask"] == expected["padding_mask"]).all()
    real = got["padding_mask"] > 0
    assert (got["token_ids"] == expected["token_ids"])[real].all()
    assert real[0].sum() < real[1].sum()
    assert (whole != asked(ours, "greedy", batch)["token_ids"]).any()
