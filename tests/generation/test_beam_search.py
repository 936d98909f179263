"""Beam search keeps the likeliest texts, told by whole forward passes."""

import numpy as np
import pytest
from conftest import once_but
from keras import ops
from search_examples import PROMPTS, VOCABULARY, answers, arrays, small_model, softmax, whole_passes

from keras_gemma.generation import BeamSearch, Engine, Request, weights_for
from keras_gemma.samplers import BeamSampler

TEMPERATURE = 3.0  # the likeliest token isn't always the beginning of the likeliest text
COUNT = 7


@pytest.fixture(scope="module")
def model():
    return small_model()


def beam_search(model, prompt, beams, stop=(), count=COUNT, temperature=TEMPERATURE):
    """`(log-probability, new ids)` of the beams, likeliest first; a stopped one stays."""
    kept = [(0.0, list(prompt))]
    stopped = []
    for _ in range(count):
        if not kept:
            break
        logits = whole_passes(model, [ids for _, ids in kept])[1]
        log_probs = np.log(softmax(logits / temperature))
        ways = list(stopped)
        for (total, ids), row in zip(kept, log_probs):
            ways += [(total + gain, [*ids, token]) for token, gain in enumerate(row)]
        ways = sorted(ways, key=lambda way: -way[0])[:beams]
        stopped = [way for way in ways if way[1][-1] in stop and len(way[1]) > len(prompt)]
        kept = [way for way in ways if way not in stopped]
    found = sorted(stopped + kept, key=lambda way: -way[0])
    return [(total, ids[len(prompt) :]) for total, ids in found]


def asked(model, sampler, prompts=PROMPTS, stop=None, count=COUNT, **keywords):
    # Compiling takes longer than all that is asked here; what is compiled is told of below.
    model.compile(sampler=sampler, **{"run_eagerly": True, **keywords})
    return model.generate(arrays(prompts), stop_token_ids=stop, max_new_tokens=count)


def test_unlike_prompts_get_the_likeliest_text_that_whole_passes_find(model):
    got = answers(asked(model, BeamSampler(4, temperature=TEMPERATURE)), PROMPTS)
    assert got == [beam_search(model, prompt, 4)[0][1] for prompt in PROMPTS]
    assert got != answers(asked(model, "greedy"), PROMPTS)


def test_one_beam_is_greedy(model):
    assert answers(asked(model, BeamSampler(1)), PROMPTS) == answers(
        asked(model, "greedy"), PROMPTS
    )


@pytest.mark.once
@pytest.mark.parametrize("stops", [False, True])
def test_all_beams_come_with_their_log_probabilities(model, stops):
    expected = [beam_search(model, prompt, 3) for prompt in PROMPTS]
    stop = None
    if stops:  # at the middle of the first text, where others go on
        stop = [expected[0][0][1][COUNT // 2]]
        expected = [beam_search(model, prompt, 3, stop) for prompt in PROMPTS]
        assert len({len(ids) for beams in expected for _, ids in beams}) > 1
    out = asked(model, BeamSampler(3, True, temperature=TEMPERATURE), stop=stop)
    assert out["token_ids"].shape == (3, 3, 40)
    for row, (prompt, beams) in enumerate(zip(PROMPTS, expected)):
        log_probs, texts = zip(*beams)
        one = {name: out[name][row] for name in ("token_ids", "padding_mask")}
        assert answers(one, [prompt] * 3) == list(texts)
        np.testing.assert_allclose(out["log_probs"][row], log_probs, rtol=1e-4)


@pytest.mark.once
def test_the_likeliest_text_may_end_before_the_others(model):
    whole = beam_search(model, PROMPTS[1], 3)
    stop = [whole[0][1][1]]
    expected = [beam_search(model, prompt, 3, stop)[0][1] for prompt in PROMPTS]
    got = asked(model, BeamSampler(3, temperature=TEMPERATURE), stop=stop)
    assert answers(got, PROMPTS) == expected
    assert len({len(ids) for ids in expected}) > 1


@pytest.mark.once
def test_more_beams_than_there_are_texts(model):
    forced = BeamSampler(3, True, temperature=TEMPERATURE, forced_tokens=[5])
    out = asked(model, forced, count=1)
    assert np.isfinite(out["log_probs"]).tolist() == [[True, False, False]] * 3
    assert [ids[0] for ids in answers({k: v[:, 0] for k, v in out.items()}, PROMPTS)] == [5, 5, 5]
    two = asked(model, forced, count=2)
    assert np.isfinite(two["log_probs"]).all()
    wide = asked(model, BeamSampler(VOCABULARY + 4, True), prompts=PROMPTS[:1], count=1)
    assert np.isfinite(wide["log_probs"]).sum() <= VOCABULARY
    assert len(set(wide["token_ids"][0, :VOCABULARY, 3].tolist())) == VOCABULARY


@pytest.mark.once
def test_numbers_of_rows_are_those_of_their_beams(model):
    bias = {7: [9.0, 0.0, -9.0]}
    rows = BeamSampler(3, temperature=[2.0, 3.0, 4.0], presence_penalty=1.5, logit_bias=bias)
    got = answers(asked(model, rows), PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = BeamSampler(
            3,
            temperature=[2.0, 3.0, 4.0][row],
            presence_penalty=1.5,
            logit_bias={7: bias[7][row]},
        )
        assert answers(asked(model, alone, [prompt]), [prompt]) == [got[row]]


@pytest.mark.parametrize(
    "options", once_but([{"run_eagerly": False}, {"plan": "none"}], {"run_eagerly": False})
)
def test_compiled_and_without_a_plan_it_finds_the_same(model, options):
    sampler = BeamSampler(3, True, temperature=TEMPERATURE)
    expected, got = asked(model, sampler), asked(model, sampler, **options)
    assert (got["token_ids"] == expected["token_ids"]).all()
    np.testing.assert_allclose(got["log_probs"], expected["log_probs"], rtol=1e-4)


@pytest.mark.parametrize("return_all_beams", [False, True])
def test_logits_that_nothing_can_be_chosen_from_are_told(model, return_all_beams):
    """Of one text, after its second new token."""

    def broken(logits, context):
        new = context.lengths - context.prompt_lengths
        row = ops.logical_and(new >= 2, context.prompt_lengths == len(PROMPTS[1]))
        return ops.where(row[:, None], float("nan"), logits)

    sampler = BeamSampler(3, return_all_beams, steps=[broken])
    assert asked(model, sampler, count=2)["token_ids"].any()
    with pytest.raises(ValueError, match="nothing can be drawn from"):
        asked(model, sampler, count=3)


@pytest.mark.once
def test_rows_that_are_long_enough_stay_as_they_are(model):
    model.compile(sampler=BeamSampler(2, True, temperature=TEMPERATURE), run_eagerly=True)
    out = model.generate(arrays(PROMPTS, len(PROMPTS[2])), stop_token_ids=None)
    assert out["token_ids"][2, 0].tolist() == PROMPTS[2]
    assert out["log_probs"][2].tolist() == [0.0, -np.inf]
    nothing = model.generate(arrays(PROMPTS), stop_token_ids=None, max_new_tokens=0)
    assert nothing["log_probs"].tolist() == [[0.0, -np.inf]] * 3


def _longest(caches):
    """Slots of the caches of layers without a window."""
    return max(cache.keys.shape[1] for cache in caches)


@pytest.mark.once
def test_caches_grow_with_the_text(model):
    """In two parts, the second of them beyond the first caches."""
    prompt = np.random.default_rng(0).integers(1, VOCABULARY, 250).tolist()
    sampler = BeamSampler(2, temperature=TEMPERATURE)
    engine = Engine(
        weights_for(model.backbone.stack, model.backbone.variables, True),
        sampler,
        model.backbone.config,
        model.compute_dtype,
    )
    search, texts = BeamSearch(engine, eager=True), []
    for limit in (270, 2000):
        state = search.start([Request(prompt, limit)])
        slots = [_longest(state.caches)]
        state = search.advance(state, 19)
        slots.append(_longest(state.caches))
        texts.append(np.asarray(state.token_ids)[0, :270].tolist())
        assert (slots[0] < slots[1]) == (limit == 2000)
    assert texts[0] == texts[1]
