"""Contrastive search, told by whole forward passes from its definition (arXiv 2202.06417)."""

import numpy as np
import pytest
from conftest import once_but
from keras import ops
from search_examples import PROMPTS, answers, arrays, small_model, softmax, whole_passes

from keras_gemma.generation import ContrastiveSearch, Engine, Request, weights_for
from keras_gemma.samplers import ContrastiveSampler

COUNT = 6


@pytest.fixture(scope="module")
def model():
    return small_model()


def contrastive_search(model, prompt, k, alpha, stop=(), temperature=1.0):
    ids = list(prompt)
    for _ in range(COUNT):
        hidden, logits = whole_passes(model, [ids])
        probabilities = softmax(logits[0] / temperature)
        candidates = np.argsort(-probabilities)[:k].tolist()
        theirs = whole_passes(model, [[*ids, token] for token in candidates])[0][:, -1]
        lengths = np.linalg.norm(hidden[0], axis=-1) * np.linalg.norm(theirs, axis=-1)[:, None]
        similarity = (theirs @ hidden[0].T / lengths).max(axis=1)
        scores = (1 - alpha) * probabilities[candidates] - alpha * similarity
        ids.append(candidates[int(scores.argmax())])
        if ids[-1] in stop:
            break
    return ids[len(prompt) :]


def asked(model, sampler, prompts=PROMPTS, stop=None, **keywords):
    # Compiling takes longer than all that is asked here; what is compiled is told of below.
    model.compile(sampler=sampler, **{"run_eagerly": True, **keywords})
    out = model.generate(arrays(prompts), stop_token_ids=stop, max_new_tokens=COUNT)
    return answers(out, prompts)


@pytest.mark.parametrize(
    "k, alpha, temperature", once_but([(4, 0.6, 1.0), (3, 0.3, 3.0)], (3, 0.3, 3.0))
)
def test_unlike_prompts_get_what_the_definition_says(model, k, alpha, temperature):
    got = asked(model, ContrastiveSampler(k, alpha, temperature=temperature))
    assert got == [contrastive_search(model, p, k, alpha, (), temperature) for p in PROMPTS]
    assert got != asked(model, "greedy")


def test_a_row_stops_at_its_stop_token_and_the_others_go_on(model):
    whole = [contrastive_search(model, prompt, 4, 0.6) for prompt in PROMPTS]
    stop = [whole[0][2]]
    expected = [contrastive_search(model, prompt, 4, 0.6, stop) for prompt in PROMPTS]
    assert asked(model, ContrastiveSampler(4), stop=stop) == expected
    assert len({len(ids) for ids in expected}) > 1


@pytest.mark.parametrize("sampler", [ContrastiveSampler(1), ContrastiveSampler(4, 0.0)])
def test_without_a_choice_or_without_similarity_it_is_greedy(model, sampler):
    assert asked(model, sampler) == asked(model, "greedy")


@pytest.mark.once
def test_what_has_no_probability_never_comes(model):
    """It may well be the least like the text."""
    got = asked(model, ContrastiveSampler(6, 1.0, forced_tokens=[9, 9, 9]))
    assert [ids[:3] for ids in got] == [[9, 9, 9]] * 3
    assert asked(model, ContrastiveSampler(6, 1.0, temperature=0)) == asked(model, "greedy")


@pytest.mark.once
def test_more_candidates_than_the_vocabulary_holds(model):
    assert asked(model, ContrastiveSampler(1000)) == asked(model, ContrastiveSampler(96))


@pytest.mark.parametrize(
    "options", once_but([{"run_eagerly": False}, {"plan": "none"}], {"run_eagerly": False})
)
def test_compiled_and_without_a_plan_it_chooses_the_same(model, options):
    sampler = ContrastiveSampler(4, 0.3, temperature=3.0)
    assert asked(model, sampler, **options) == asked(model, sampler)


@pytest.mark.once
def test_prompts_in_chunks_are_known_whole(model):
    """What a candidate is compared with includes what was read first."""
    texts = []
    for chunk in (4, 512):
        engine = Engine(
            weights_for(model.backbone.stack, model.backbone.variables, True),
            ContrastiveSampler(4),
            model.backbone.config,
            model.compute_dtype,
            chunk=chunk,
        )
        search = ContrastiveSearch(engine, eager=True)
        state = search.start([Request(prompt, len(prompt) + COUNT) for prompt in PROMPTS])
        state = search.advance(state, COUNT)
        texts.append(ops.convert_to_numpy(state.token_ids).tolist())
    assert texts[0] == texts[1]


@pytest.mark.once
def test_a_stream_is_the_text(model):
    [expected] = asked(model, ContrastiveSampler(3), PROMPTS[:1])
    ids = model.stream_ids(PROMPTS[0], max_new_tokens=COUNT, stop_token_ids=None)
    assert next(ids) == expected[0]
    assert list(ids) == expected[1:]
