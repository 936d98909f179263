"""Tokens that alone may come are read several at once, and the text is the one they would make in turn."""

import numpy as np
import pytest
from conftest import SIZES, WINDOWED, loud, once_but

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.generation import Engine, Request, Run, weights_for
from keras_gemma.generation.compiled import traits
from keras_gemma.generation.engine import MOST_UNREAD
from keras_gemma.samplers import GreedySampler, RandomSampler, Sampler

PROMPTS = [np.random.default_rng(5).integers(1, 96, size).tolist() for size in (3, 40, 17)]
NEW = 40


@pytest.fixture(scope="module")
def model():
    return GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED)))


def engine_of(model, sampler=None, **options):
    backbone = model.backbone
    weights = weights_for(backbone.stack, backbone.variables, use_plan=True)
    return Engine(weights, sampler or GreedySampler(), backbone.config, "float32", **options)


class Form:
    """Some certain tokens, then some that are free, again and again; `end` of them."""

    def __init__(self, certain, free, end=10**6):
        self.certain, self.period, self.end, self.taken = certain, certain + free, end, []

    @property
    def finished(self):
        return len(self.taken) >= self.end

    def allowed(self):
        words = np.full(-(-SIZES["vocabulary_size"] // 32), -1, "int32")
        if self._is_certain():
            words[:] = 0
            words[self._token() // 32] = np.uint32(1 << self._token() % 32).view("int32")
        return words

    def accept(self, token):
        assert not self._is_certain() or token == self._token()
        self.taken.append(token)

    def _is_certain(self):
        return len(self.taken) % self.period < self.certain

    def _token(self):
        return 1 + len(self.taken) * 7 % 90


def made(engine, forms, prompts=PROMPTS, top=None):
    requests = [
        Request(prompt, len(prompt) + NEW, seed=row, matcher=form)
        for row, (prompt, form) in enumerate(zip(prompts, forms))
    ]
    run = Run(engine, requests, top)
    while run.is_running:
        run.advance(5)
    ids = [run.new_ids(row) for row in range(len(requests))]
    run.close()
    return ids


def forms():
    # The first ends within what is certain; the last has more of that than is read at once.
    return [Form(3, 2, end=12), None, Form(MOST_UNREAD + 5, 1)]


@pytest.mark.parametrize("sampler", once_but([GreedySampler, RandomSampler], RandomSampler))
def test_the_text_is_the_one_of_single_steps(model, sampler, monkeypatch):
    engine, caught_up = engine_of(model, sampler()), []
    read = engine.catch_up
    monkeypatch.setattr(engine, "catch_up", lambda *a: caught_up.append(a[1]) or read(*a))
    told = made(engine, forms())
    assert bool(caught_up) == traits().reads_chunks_fast
    monkeypatch.setattr(Engine, "takes_told_tokens", False)
    assert told == made(engine_of(model, sampler()), forms())
    assert [len(ids) for ids in told] == [12, NEW, NEW]


@pytest.mark.once
def test_a_prompt_that_goes_on_is_read_from_where_reading_ended(model):
    engine = engine_of(model, prefix_bytes=10**8)
    [ids] = made(engine, [Form(3, 2, end=12)], PROMPTS[:1])
    longer = [[*PROMPTS[0], *ids, 5, 6]]
    assert made(engine, [None], longer) == made(engine_of(model), [None], longer)


@pytest.mark.once
@pytest.mark.parametrize(
    "sampler, top",
    [(GreedySampler(), 1), (Sampler(banned_tokens=[90]), None), (Sampler(forced_tokens=[1]), None)],
)
def test_what_a_step_would_add_is_left_to_it(model, sampler, top, monkeypatch):
    engine = engine_of(model, sampler)
    monkeypatch.setattr(engine, "catch_up", None)
    assert len(made(engine, [Form(3, 2)], PROMPTS[:1], top)[0]) > 1
