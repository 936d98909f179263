"""`generate` and `stream`: what people call to get text out of a model."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gemma.generation import Engine, StopStrings, end_ids, text_pieces, weights_for
from keras_gemma.models.fit_data import is_text, is_tf_dataset
from keras_gemma.samplers import row_seeds

# Tokens made between two looks at the text, when stop strings must be searched for.
_STRIDE = 8


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
        seed: int | None = None,
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
            seed: of the sampler's draws; the same seed gives the same text.

        Returns:
            What came in: a string, a list of strings, or a dict of arrays.

        Raises:
            ValueError: a prompt doesn't fit `max_length`, an id is outside the vocabulary.
            TypeError: something among the prompts is not a string.
        """
        keywords = {
            "max_length": max_length,
            "stop_token_ids": stop_token_ids,
            "strip_prompt": strip_prompt,
            "max_new_tokens": max_new_tokens,
            "stop": stop,
            "seed": seed,
        }
        if is_tf_dataset(inputs):
            return _joined(
                [self.generate(batch, **keywords) for batch in inputs.as_numpy_iterator()]
            )
        if isinstance(inputs, Mapping) and "token_ids" in inputs:
            return self._generate_arrays(inputs, **keywords)
        if isinstance(inputs, Mapping) and "prompts" in inputs:
            inputs = inputs["prompts"]
        texts, single = _strings(inputs)
        del keywords["strip_prompt"]
        prompts = [self._encode(text) for text in texts]
        answers = [
            self._decode(ids, StopStrings(stop)) for ids in self._generate_rows(prompts, **keywords)
        ]
        if not strip_prompt:
            answers = [text + answer for text, answer in zip(texts, answers)]
        return answers[0] if single else answers

    def stream(self, prompt: str, max_length: int | None = None, **keywords: Any) -> Iterator[str]:
        """Yield the answer to one prompt piece by piece as it is made, never half a character.

        Keywords are those of `generate`; the joined pieces are what `generate` returns with
        `strip_prompt=True`.
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
        prompt = _checked(token_ids)
        # Bad arguments are told here, not at the first piece.
        state = self._start([prompt], **keywords)
        return self._stream_rows(prompt, state)

    # --- one level down: rows of ids ---

    def _stream_rows(self, prompt, state):
        made = len(prompt)
        while state is not None:
            lengths, running = _numpy(state.lengths), _numpy(state.running)
            yield from _numpy(state.token_ids)[0, made : lengths[0]].tolist()
            made = lengths[0]
            if not running[0]:
                return
            state = self._engine().advance(state, 1)

    def _generate_rows(self, prompts, stop=(), **keywords):
        """The new ids of each prompt."""
        state = self._start(prompts, **keywords)
        if state is None:
            return [[] for _ in prompts]
        engine, steps = self._engine(), int(_numpy(state.limits).max())
        while _numpy(state.running).any():
            state = engine.advance(state, _STRIDE if stop else steps)
            if stop:
                done = [self._stopped(row, stop) for row in _new_ids(state, prompts)]
                running = _numpy(state.running) & ~np.array(done)
                state = state._replace(running=ops.convert_to_tensor(running))
        return _new_ids(state, prompts)

    def _stopped(self, ids, stop):
        stops = StopStrings(stop)
        self._decode(ids, stops)
        return stops.found

    def _start(
        self, prompts, max_length=None, stop_token_ids="auto", max_new_tokens=None, seed=None
    ):
        """The state after the first new token; `None` where there is nothing to add."""
        limits = self._limits(prompts, max_length, max_new_tokens)
        for prompt in prompts:
            self._check_vocabulary(prompt)
        stop_ids = self._stop_ids(stop_token_ids)
        if not prompts or all(limit <= len(prompt) for limit, prompt in zip(limits, prompts)):
            return None
        seeds = row_seeds(self._seed(seed), len(prompts))
        if not self._engine().weights.are_of(self.backbone.variables):
            self._generation_engine = None
        return self._engine().start(prompts, limits, stop_ids, seeds, _on_devices)

    def _engine(self):
        """The engine of this model and its sampler; built when first asked for."""
        # While `fit` runs, Keras on JAX holds the weights apart; a callback may well be asking.
        if hasattr(self, "jax_state_sync"):
            self.jax_state_sync()
        if self._generation_engine is None:
            self._generation_engine = Engine(
                weights_for(self.backbone.stack, self.backbone.variables, self.plan == "auto"),
                self.sampler,
                self.backbone.config,
                self.compute_dtype,
                eager=self.run_eagerly,
            )
        return self._generation_engine

    def _seed(self, seed):
        if seed is None:
            seed = getattr(self.sampler, "seed", None)
        if isinstance(seed, keras.random.SeedGenerator):
            seed = seed.next()[1]
        if seed is None:  # follows keras.utils.set_random_seed
            seed = keras.random.randint((), 0, 2**31 - 1)
        return int(ops.convert_to_numpy(seed)) & 0x7FFFFFFF

    def _limits(self, prompts, max_length, max_new_tokens):
        max_length = _count("max_length", max_length, 1)
        max_new_tokens = _count("max_new_tokens", max_new_tokens, 0)
        if max_length is None and max_new_tokens is None:
            if self.preprocessor is None:
                raise ValueError(
                    "How long a text may get is unknown: pass max_length or max_new_tokens, or "
                    "attach a preprocessor, which has a sequence_length."
                )
            max_length = self.preprocessor.sequence_length
        limits = []
        for prompt in prompts:
            if not prompt:
                raise ValueError("A prompt has no token; it needs one at least, `<bos>` say.")
            if max_length is not None and len(prompt) > max_length:
                raise ValueError(
                    f"A prompt of {len(prompt)} tokens does not fit max_length={max_length}. "
                    "Raise max_length, or shorten the prompt."
                )
            longest = len(prompt) + max_new_tokens if max_new_tokens is not None else max_length
            limits.append(longest if max_length is None else min(longest, max_length))
        return limits

    def _check_vocabulary(self, prompt):
        size = self.backbone.config.vocabulary_size
        for token in prompt:
            if not 0 <= token < size:
                raise ValueError(
                    f"Id {token} is outside the vocabulary of {size}: 0 to {size - 1}."
                )

    def _stop_ids(self, stop_token_ids):
        if stop_token_ids is None:
            return set()
        if isinstance(stop_token_ids, str):
            if stop_token_ids != "auto":
                raise ValueError(
                    f'stop_token_ids must be "auto", None or ids, not {stop_token_ids!r}.'
                )
            return end_ids(self._tokenizer('stop_token_ids="auto"'))
        return {operator.index(token) for token in stop_token_ids}

    # --- text ---

    def _tokenizer(self, use):
        if self.preprocessor is None:
            raise ValueError(
                f"{use} needs a preprocessor, and this model has none (preprocessor=None). Attach "
                "one, or work with ids: inputs={'token_ids', 'padding_mask'} and stop_token_ids."
            )
        return self.preprocessor.tokenizer

    def _encode(self, text):
        ids = self._tokenizer("A prompt of text")(text).tolist()
        if self.preprocessor.add_start_token:
            ids.insert(0, self.preprocessor.tokenizer.start_token_id)
        return ids

    def _decode(self, ids, stops):
        return "".join(self._pieces(ids, stops))

    def _pieces(self, ids, stops):
        return text_pieces(self._tokenizer("Text"), ids, stops)

    # --- arrays ---

    def _generate_arrays(self, inputs, max_length, strip_prompt, **keywords):
        token_ids = np.atleast_2d(_numpy(inputs["token_ids"]))
        mask = inputs.get("padding_mask")
        mask = np.ones_like(token_ids) if mask is None else np.atleast_2d(_numpy(mask))
        width = token_ids.shape[1] if max_length is None else max_length
        prompts = [row[real > 0].tolist() for row, real in zip(token_ids, mask)]
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


def _numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def _new_ids(state, prompts):
    token_ids, lengths = _numpy(state.token_ids), _numpy(state.lengths)
    rows = zip(token_ids, lengths, prompts)
    return [row[len(prompt) : length].tolist() for row, length, prompt in rows]


def _checked(token_ids):
    return [operator.index(token) for token in token_ids]


def _count(name, value, least):
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}.") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, not {count}.")
    return count


def _strings(inputs):
    """`(list of strings, whether one string came in)`."""
    if isinstance(inputs, str):
        return [inputs], True
    if not isinstance(inputs, (list, tuple)):
        inputs = _numpy(inputs) if hasattr(inputs, "shape") else inputs
        if not is_text(inputs):
            raise TypeError(
                "generate takes a string, a list of strings, or a dict with token_ids and "
                f"padding_mask, not {type(inputs).__name__}."
            )
        texts, single = _strings(inputs.tolist())
        return texts, single
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
