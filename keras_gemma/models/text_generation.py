"""`generate` and `stream`: what people call to get text out of a model."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gemma.arrays import nbytes
from keras_gemma.generation import (
    Beam,
    BeamSearch,
    ContrastiveSearch,
    Engine,
    Run,
    StopStrings,
    TokenLogProb,
    text_pieces,
    weights_for,
)
from keras_gemma.models.all_beams import beam_arrays, beam_texts
from keras_gemma.models.draft import draft_for
from keras_gemma.models.fit_data import is_text, is_tf_dataset
from keras_gemma.models.generation_requests import requests_for, tokenizer_of
from keras_gemma.samplers import BeamSampler, ContrastiveSampler

# Tokens made between two looks at the text, when stop strings must be searched for.
_STRIDE = 8
# What runs a sampler that compares texts.
_SEARCHES = (BeamSampler, BeamSearch), (ContrastiveSampler, ContrastiveSearch)


class GeneratedText(NamedTuple):
    """A text, and what the model thought of each token that was made for it."""

    text: str
    log_probs: list[TokenLogProb]


class TextGeneration:
    """Text generation for a model with a `backbone`, a `preprocessor` and a `sampler`."""

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        strip_prompt: bool = False,
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | Sequence[int] | None = None,
        constraint: Any = None,
        log_probs: int | None = None,
    ) -> Any:
        """Continue each prompt until it stops by itself or is long enough.

        Args:
            inputs: a string, a list of strings, `{"token_ids", "padding_mask"}` arrays of shape
                (batch, length), or a `tf.data.Dataset` of batches of either.
            max_length: longest text in tokens, prompt included. Defaults to the preprocessor's
                `sequence_length`; for arrays, to their length.
            stop_token_ids: ids that end a text; `"auto"` is `<eos>` and `<end_of_turn>`, `None`
                is none.
            strip_prompt: return the new text only.
            max_new_tokens: most tokens to add to a prompt.
            stop: strings that end a text; they are not part of the result.
            seed: of the sampler's draws; the same seed gives the same text. One for each prompt,
                or one from which each prompt's own is made.
            constraint: of `keras_gemma.constraints`; what is made obeys it. A text that a limit of
                tokens or a stop string cuts short is the beginning of one that would.
            log_probs: return the log-probability of each token that was made, and those of so
                many of the likeliest in its place. They are the model's, before any sampling.

        Returns:
            What came in: a string, a list of strings, or a dict of arrays; with `log_probs` a
            `GeneratedText` for each string. With `BeamSampler(return_all_beams=True)` a list of
            `ScoredText` for each string, likeliest first; of arrays, `token_ids` and
            `padding_mask` have shape (batch, beams, length), and `log_probs` (batch, beams).

        Raises:
            ValueError: a prompt doesn't fit `max_length`, an id is outside the vocabulary; a
                sampler that compares texts (beam, contrastive) is given a constraint or a draft.
            TypeError: something among the prompts is not a string.
        """
        keywords = {
            "max_length": max_length,
            "stop_token_ids": stop_token_ids,
            "max_new_tokens": max_new_tokens,
            "stop": stop,
            "seed": seed,
            "constraint": constraint,
        }
        if is_tf_dataset(inputs):
            return _joined(
                [
                    self.generate(batch, strip_prompt=strip_prompt, log_probs=log_probs, **keywords)
                    for batch in inputs.as_numpy_iterator()
                ]
            )
        if isinstance(inputs, Mapping) and "token_ids" in inputs:
            if log_probs is not None:
                raise ValueError("log_probs comes with texts; of arrays, score gives them.")
            return self._generate_arrays(inputs, strip_prompt=strip_prompt, **keywords)
        if isinstance(inputs, Mapping) and "prompts" in inputs:
            inputs = inputs["prompts"]
        texts, single = _strings(inputs)
        prompts = [self._encode(text) for text in texts]
        run = self._run(prompts, top=_top(self, log_probs), **keywords)
        if _returns_all_beams(self):
            heads = [""] * len(texts) if strip_prompt else texts
            beams = self._beams(run, prompts)
            made = beam_texts(heads, beams, lambda ids: self._decode(ids, StopStrings(stop)))
            return made[0] if single else made
        answers: list[Any] = [""] * len(texts)
        if run is not None:
            answers = [
                self._decode(run.new_ids(row), StopStrings(stop)) for row in range(len(texts))
            ]
        if not strip_prompt:
            answers = [text + answer for text, answer in zip(texts, answers)]
        if log_probs is not None:
            answers = [
                GeneratedText(text, run.log_probs(row) if run else [])
                for row, text in enumerate(answers)
            ]
        if run is not None:
            run.close()
        return answers[0] if single else answers

    def stream(self, prompt: str, max_length: int | None = None, **keywords: Any) -> Iterator[str]:
        """Yield the answer to one prompt piece by piece as it is made, never half a character.

        Keywords are those of `generate`; the joined pieces are what `generate` returns with
        `strip_prompt=True`. With a `BeamSampler` no piece comes before the text is whole, for
        only then is it known which is the likeliest.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"stream takes one prompt, a string, not {type(prompt).__name__}.")
        stops = StopStrings(keywords.get("stop", ()))
        keywords.pop("stop", None)
        ids = self.stream_ids(self._encode(prompt), max_length=max_length, **keywords)
        return self._pieces(ids, stops)

    def generate_ids(self, token_ids: Sequence[int], **keywords: Any) -> list[int]:
        """The ids that continue `token_ids`; keywords are those of `generate`.

        The last one is the id that stopped it, if one did.
        """
        return self._generate_rows([_checked(token_ids)], **keywords)[0]

    def stream_ids(self, token_ids: Sequence[int], **keywords: Any) -> Iterator[int]:
        """Yield the ids that continue `token_ids`, as they are made."""
        # Bad arguments are told here, not at the first piece.
        return _ids_of(self._start([_checked(token_ids)], **keywords))

    # --- one level down: rows of ids ---

    def _generate_rows(self, prompts, **keywords):
        """The new ids of each prompt."""
        run = self._run(prompts, **keywords)
        if run is None:
            return [[] for _ in prompts]
        ids = [run.new_ids(row) for row in range(len(prompts))]
        run.close()
        return ids

    def _run(self, prompts, stop=(), **keywords):
        """The run of all prompts, at its end; `None` where there is nothing to add."""
        run = self._start(prompts, **keywords)
        while run is not None and run.is_running:
            run.advance(_STRIDE if stop else max(request.limit for request in run.requests))
            if stop:
                run.stop(
                    np.array([self._stopped(run.new_ids(i), stop) for i in range(len(prompts))])
                )
        return run

    def _stopped(self, ids, stop):
        stops = StopStrings(stop)
        self._decode(ids, stops)
        return stops.found

    def _start(self, prompts, top=None, **keywords):
        """A run after its first new token; `None` where there is nothing to add."""
        requests = requests_for(self, prompts, **keywords)
        if all(request.limit <= len(request.prompt) for request in requests):
            return None
        run = Run(self._engine(), requests, top, _on_devices)
        if isinstance(self.sampler, BeamSampler):  # which text is the likeliest is known at the end
            run.advance(max(request.limit for request in requests))
        return run

    def _beams(self, run, prompts):
        """All beams of each prompt; nothing to add is one beam of no ids."""
        return [[Beam([], 0.0)] for _ in prompts] if run is None else run.engine.beams(run.state)

    def _engine(self):
        """The engine of this model and its sampler; built when first asked for."""
        # While `fit` runs, Keras on JAX holds the weights apart; a callback may well be asking.
        if hasattr(self, "jax_state_sync"):
            self.jax_state_sync()
        variables = self.backbone.variables
        engine = self._generation_engine
        if engine is None or not engine.weights.are_of(variables):
            made = Engine(
                weights_for(self.backbone.stack, variables, self.plan == "auto"),
                self.sampler,
                self.backbone.config,
                self.compute_dtype,
                eager=self.run_eagerly,
                cache=self.cache,
                prefix_bytes=self.prefix_cache_bytes(),
                draft=draft_for(self),
            )
            kinds = [kind for made_for, kind in _SEARCHES if isinstance(self.sampler, made_for)]
            self._generation_engine = kinds[0](made, self.run_eagerly) if kinds else made
        return self._generation_engine

    def prefix_cache_bytes(self) -> int:
        """Bytes that texts may take which are remembered after they ended."""
        if keras.distribution.distribution() is not None:
            return 0  # what is kept of one text doesn't lie as a batch of them has to
        if self.prefix_bytes is not None:
            return self.prefix_bytes
        return sum(map(nbytes, self.backbone.variables)) // 8

    # --- text ---

    def _encode(self, text):
        ids = tokenizer_of(self, "A prompt of text")(text).tolist()
        if self.preprocessor.add_start_token:
            ids.insert(0, self.preprocessor.tokenizer.start_token_id)
        return ids

    def _decode(self, ids, stops):
        return "".join(self._pieces(ids, stops))

    def _pieces(self, ids, stops):
        return text_pieces(tokenizer_of(self, "Text"), ids, stops)

    # --- arrays ---

    def _generate_arrays(self, inputs, max_length, strip_prompt, **keywords):
        token_ids = np.atleast_2d(_numpy(inputs["token_ids"]))
        mask = inputs.get("padding_mask")
        mask = np.ones_like(token_ids) if mask is None else np.atleast_2d(_numpy(mask))
        width = token_ids.shape[1] if max_length is None else max_length
        prompts = [row[real > 0].tolist() for row, real in zip(token_ids, mask)]
        if _returns_all_beams(self):
            beams = self._beams(self._run(prompts, max_length=width, **keywords), prompts)
            heads = [[]] * len(prompts) if strip_prompt else prompts
            return beam_arrays(heads, beams, self.sampler.num_beams, width)
        answers = self._generate_rows(prompts, max_length=width, **keywords)
        texts = answers if strip_prompt else [p + a for p, a in zip(prompts, answers)]
        out = {
            "token_ids": np.zeros((len(texts), width), "int32"),
            "padding_mask": np.zeros((len(texts), width), "bool"),
        }
        for row, text in enumerate(texts):
            out["token_ids"][row, : len(text)] = text
            out["padding_mask"][row, : len(text)] = True
        return out


def _ids_of(run):
    """The ids of the one text of a run, as they are made."""
    if run is None:
        return
    try:
        given = 0
        while True:
            ids = run.new_ids(0, given)
            yield from ids
            given += len(ids)
            if not run.is_running:
                return
            run.advance(1)
    finally:
        run.close()


def _returns_all_beams(model):
    return isinstance(model.sampler, BeamSampler) and model.sampler.return_all_beams


def _top(model, log_probs):
    if log_probs is None:
        return None
    if _returns_all_beams(model):
        raise ValueError(
            "All beams come with one log-probability each; for those of the tokens of the "
            "likeliest beam, compile with return_all_beams=False."
        )
    most = model.backbone.config.vocabulary_size
    if isinstance(log_probs, bool) or not 0 <= operator.index(log_probs) <= most:
        raise ValueError(f"log_probs must be a whole number from 0 to {most}, not {log_probs!r}.")
    return log_probs


def _numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def _checked(token_ids):
    return [operator.index(token) for token in token_ids]


def _strings(inputs):
    """`(list of strings, whether one string came in)`."""
    if isinstance(inputs, str):
        return [inputs], True
    if not isinstance(inputs, (list, tuple)):
        inputs = _numpy(inputs) if hasattr(inputs, "shape") else inputs
        if not is_text(inputs) or isinstance(inputs, bytes):
            raise TypeError(
                "generate takes a string, a list of strings, or a dict with token_ids and "
                f"padding_mask, not {type(inputs).__name__}."
            )
        if np.ndim(inputs) == 0:  # one string of a backend's
            return _strings([inputs.item()])[0], True
        return _strings(inputs.tolist())
    texts = [text.decode() if isinstance(text, bytes) else text for text in inputs]
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Prompt {place} is not a string but {type(text).__name__}: {text!r}.")
    return texts, False


def _joined(batches):
    if batches and isinstance(batches[0], dict):
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return [text for batch in batches for text in batch]


def _on_devices(x):
    """Spread an array over the devices of a `keras.distribution`, by rows where they divide."""
    distribution = keras.distribution.distribution()
    if distribution is None or len(x.shape) == 0:
        return x
    layout = distribution.get_data_layout(x.shape)
    if layout is None:
        return x
    mesh = layout.device_mesh
    axis = layout.axes[0]
    if axis is None or x.shape[0] % mesh.shape[mesh.axis_names.index(axis)]:
        return x
    return keras.distribution.distribute_tensor(ops.convert_to_tensor(x), layout)
