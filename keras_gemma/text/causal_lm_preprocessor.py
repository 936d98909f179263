"""GemmaCausalLMPreprocessor: texts to `(x, y, sample_weight)` for `fit`, to ids for `generate`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from keras_gemma.text.packing import Packed, one_per_row, pack
from keras_gemma.text.preprocessor import Preprocessor, checked_length
from keras_gemma.text.tokenizer import Gemma3Tokenizer, GemmaTokenizer
from keras_gemma.text.tokenizer_inputs import flat_texts, is_tf_tensor
from keras_gemma.text.training_rows import TOO_LONG, documents_of, next_token_batch


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaCausalLMPreprocessor(Preprocessor):
    """Prepares text for `GemmaCausalLM`: integers for `fit`, integers for `generate`, and back.

    What it takes for training, and which tokens the loss is taken over:

    - texts (`str`, a list, an array): `<bos> text <eos>`; every token but `<bos>`.
    - `{"prompts": [...], "responses": [...]}`: `<bos> prompt response <eos>`, with nothing
      between; the response and `<eos>`. One that is too long loses the end of its prompt, its
      response or both, whichever is longer than half of the row.
    - conversations (`{"messages": [...]}`, a list of such, a list of lists of messages): the turns
      of `encode_turns`; what the model said, with its `<end_of_turn>`s. No `<eos>` is added.
    - TensorFlow tensors of texts, or of prompts and responses, as in `tf.data.Dataset.map`.

    Control tokens written in a text act, as in KerasHub: its author is who calls `fit`. Unset
    `control_tokens` for text of others. In messages they never act.

        preprocessor = GemmaCausalLMPreprocessor.from_preset("gemma_tiny_en", sequence_length=128)
        x, y, sample_weight = preprocessor(["Once upon a time", "there was a fox."])

    Args:
        tokenizer: a `GemmaTokenizer`.
        sequence_length: tokens in a row; may be set later, too.
        add_start_token: whether a row, and a prompt, begins with `<bos>`.
        add_end_token: whether a text ends with `<eos>`.
        pack: whether to lay the documents of a call end to end in rows, so that there are fewer of
            them. `padding_mask` then holds segment numbers.
        control_tokens: whether control tokens in texts, prompts and responses to train on act. In
            messages they never do.
        too_long: what becomes of a document that is longer than a row: `"cut"` off, as in KerasHub;
            `"split"` into parts, each of which begins with `<bos>` and the last token of the part
            before; `"drop"`ped; or an `"error"`. `None` is `"split"` with `pack`, else `"cut"`.
            `fit` counts them and warns; so does `keras_gemma.data.show`.
    """

    preset_class = "GemmaCausalLMPreprocessor"  # KerasHub's name for it, as its files have it
    kinds = ("CausalLMPreprocessor",)
    options: ClassVar = {
        "name": str,
        "sequence_length": int,
        "add_start_token": bool,
        "add_end_token": bool,
    }
    own_options: ClassVar = {"pack": bool, "control_tokens": bool, "too_long": str}
    ignored = Preprocessor.ignored | {
        "image_converter",
        "max_images_per_prompt",
        "num_vision_tokens_per_image",
    }

    def __init__(
        self,
        tokenizer: GemmaTokenizer,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        pack: bool = False,
        control_tokens: bool = True,
        too_long: str | None = None,
        *,
        name: str = "gemma_causal_lm_preprocessor",
        **kwargs: Any,
    ):
        super().__init__(tokenizer, sequence_length, name, **kwargs)
        self.add_start_token, self.add_end_token = add_start_token, add_end_token
        self.pack, self.control_tokens = pack, control_tokens
        self.too_long = too_long

    @property
    def too_long(self) -> str | None:
        """What becomes of a document longer than a row; may be set later, too."""
        return self._too_long

    @too_long.setter
    def too_long(self, value: str | None):
        if value is not None and value not in TOO_LONG:
            raise ValueError(
                f"too_long must be one of {', '.join(TOO_LONG)}, or None, not {value!r}."
            )
        self._too_long = value

    @property
    def policy(self) -> str:
        """`too_long`, with what `None` stands for put in."""
        return self.too_long or ("split" if self.pack else "cut")

    @property
    def first(self) -> list[int]:
        """What a row begins with."""
        return [self.tokenizer.start_token_id] * self.add_start_token

    @property
    def last(self) -> list[int]:
        """What a text to train on ends with."""
        return [self.tokenizer.end_token_id] * self.add_end_token

    # --- training ---

    def __call__(
        self, x: Any, y: Any = None, sample_weight: Any = None, sequence_length: int | None = None
    ) -> tuple[dict[str, Any], Any, Any]:
        """Rows of T = `sequence_length` tokens, and the token that follows each.

        Args:
            x: texts, pairs or conversations, as above.
            y: `None`: labels are made here.
            sample_weight: `None`, likewise.
            sequence_length: T for this call.

        Returns:
            `({"token_ids", "padding_mask"}, y, sample_weight)`: integers of shape `(B, T)`, and
            floats that are 1 where `y` counts for the loss. `(T,)` for one text that is not
            packed.
        """
        if y is not None or sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} makes labels and weights itself: `y` and `sample_weight` "
                "must be None. Give pairs as {'prompts': ..., 'responses': ...}."
            )
        length = checked_length(sequence_length or self.sequence_length)
        if is_tf_tensor(x) or (isinstance(x, Mapping) and any(map(is_tf_tensor, x.values()))):
            from keras_gemma.text.graph_rows import training_rows

            return training_rows(self, x, length)
        rows, batched, _ = self.training_rows(x, length)
        batch = next_token_batch(*rows)
        one_row = not batched and not self.pack and self.policy in ("cut", "error")
        return _only_row(batch) if one_row else batch

    def training_rows(self, x: Any, length: int | None = None, first_number: int = 0) -> tuple:
        """What a call gives, before it is shifted to inputs and labels.

        Args:
            x: texts, pairs or conversations; no TensorFlow tensors.
            length: T.
            first_number: what the first document is called in messages.

        Returns:
            `(rows, batched, tally)`: `Packed` rows of T + 1 tokens (the last one is only a label),
            whether `x` was more than one document, and the `Tally` of what was cut or left out.
        """
        row_length = checked_length(length or self.sequence_length) + 1
        documents, weights, batched, tally = documents_of(self, x, row_length, first_number)
        return self.rows_of(documents, weights, row_length), batched, tally

    def rows_of(self, documents: list, weights: list, row_length: int) -> Packed:
        """Documents of ids in rows: packed, or each in a row of its own."""
        lay = pack if self.pack else one_per_row
        return lay(documents, row_length, weights, self.tokenizer.pad_token_id)

    # --- generation ---

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> dict[str, Any]:
        """Ids of prompts, padded on the right; control tokens in them act, and no `<eos>` is added.

        Args:
            x: a prompt, or a list of them.
            sequence_length: L, the length to pad to.

        Returns:
            `{"token_ids", "padding_mask"}`, integers of shape `(B, L)`, or `(L,)` for one prompt.

        Raises:
            ValueError: if a prompt has more than L tokens.
        """
        length = checked_length(sequence_length or self.sequence_length)
        if isinstance(x, Mapping):
            x = x["prompts"]
        if is_tf_tensor(x):
            from keras_gemma.text.graph_rows import prompt_rows

            return prompt_rows(self, x, length)
        texts, batched = flat_texts(x)
        rows = [self.first + row for row in self.tokenizer.encode_batch(texts, control_tokens=True)]
        for number, row in enumerate(rows):
            if len(row) > length:
                which = f"Prompt {number}" if batched else "The prompt"
                raise ValueError(
                    f"{which} has {len(row)} tokens and does not fit the limit of {length}. Raise "
                    "max_length or the preprocessor's sequence_length, or shorten the prompt."
                )
        ids, mask, _ = one_per_row(rows, length, None, self.tokenizer.pad_token_id)
        batch = {"token_ids": ids, "padding_mask": mask}
        return batch if batched else {key: value[0] for key, value in batch.items()}

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of `{"token_ids", "padding_mask"}`, without padding, `<bos>`, `<eos>` and `<pad>`."""
        ids, mask = (_to_numpy(x[key]) for key in ("token_ids", "padding_mask"))
        keep = mask.astype(bool) & ~np.isin(ids, self.tokenizer.special_token_ids)
        if ids.ndim == 1:
            return self.tokenizer.detokenize(ids[keep])
        return [self.tokenizer.detokenize(row[kept]) for row, kept in zip(ids, keep)]


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3CausalLMPreprocessor(GemmaCausalLMPreprocessor):
    """`GemmaCausalLMPreprocessor` under the name that KerasHub gives it for Gemma 3 (text)."""

    preset_class = "Gemma3CausalLMPreprocessor"
    tokenizer_class = Gemma3Tokenizer


def _only_row(batch):
    x, y, sample_weight = batch
    return {key: value[0] for key, value in x.items()}, y[0], sample_weight[0]


def _to_numpy(value: Any) -> Any:
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else np.asarray(value)
