"""GemmaTokenizer: text to integers and back, by a SentencePiece model."""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import sentencepiece

from keras_gemma.presets import registry
from keras_gemma.text.control_tokens import (
    WHITESPACE_MARK,
    TextParts,
    control_names,
    rewrites_letters,
)
from keras_gemma.text.tokenizer_files import TokenizerFiles
from keras_gemma.text.tokenizer_inputs import (
    at_position,
    collect_texts,
    dtype_name,
    is_in_graph,
    is_tf_tensor,
    proto_bytes,
    rebuild,
    surrogate_message,
)

# Attributes of the tokenizer: each name here is a text, the same name with `_id` its integer.
REQUIRED_TOKENS = {"start_token": "<bos>", "end_token": "<eos>", "pad_token": "<pad>"}
OPTIONAL_TOKENS = {
    "start_of_turn_token": "<start_of_turn>",
    "end_of_turn_token": "<end_of_turn>",
    "fim_prefix_token": "<|fim_prefix|>",  # CodeGemma's, as are the next three
    "fim_middle_token": "<|fim_middle|>",
    "fim_suffix_token": "<|fim_suffix|>",
    "file_separator_token": "<|file_separator|>",
}

_NO_TEXT = (RuntimeError, TypeError, UnicodeError)  # what SentencePiece says of what is no Unicode


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaTokenizer(TokenizerFiles):
    """Gemma's tokenizer: SentencePiece, with control tokens found by name.

    A text becomes a 1-D integer array, a list of texts a list of such arrays, or one array of
    shape `(batch, sequence_length)` where that is set. TensorFlow tensors of strings, as in
    `tf.data`, give TensorFlow tensors with the same ids; nothing else needs TensorFlow.

        tokenizer = GemmaTokenizer.from_preset("gemma_tiny_en")
        tokenizer("Once upon a time")
        tokenizer.detokenize(tokenizer(["Once", "upon a time"]))

    Special tokens are attributes: `start_token`, `end_token`, `pad_token`, `start_of_turn_token`,
    `end_of_turn_token`, CodeGemma's `fim_prefix_token`, `fim_middle_token`, `fim_suffix_token`,
    `file_separator_token`; with `_id` after the name, their integers. A vocabulary must hold the
    first three; the id of another that it lacks is `None`.

    Args:
        proto: a SentencePiece model: its path, its bytes, or these in base64.
        sequence_length: cut and pad every text to this many tokens.
        dtype: an integer type, or `"string"` for pieces instead of ids.
        add_bos: whether to put `<bos>` before each text.
        add_eos: whether to put `<eos>` after each text.

    Raises:
        ValueError: if `proto` is no SentencePiece model, or one without `<bos>`, `<eos>`, `<pad>`.
    """

    presets = registry.PresetsOfFamily()

    start_token_id: int
    end_token_id: int
    pad_token_id: int
    start_of_turn_token_id: int | None
    end_of_turn_token_id: int | None
    fim_prefix_token_id: int | None
    fim_middle_token_id: int | None
    fim_suffix_token_id: int | None
    file_separator_token_id: int | None

    def __init__(
        self,
        proto: str | bytes | Path | None = None,
        sequence_length: int | None = None,
        dtype: Any = "int32",
        add_bos: bool = False,
        add_eos: bool = False,
        *,
        name: str = "gemma_tokenizer",
        **kwargs: Any,
    ):
        if unknown := set(kwargs) - {"trainable", "config_file", "has_vision_tokens"}:
            raise TypeError(f"{type(self).__name__} takes no argument {sorted(unknown)}.")
        self.name = name
        self.dtype = dtype_name(dtype)
        self.sequence_length = sequence_length
        self.add_bos, self.add_eos = add_bos, add_eos
        self.proto: bytes | None = None
        for attribute, token in (REQUIRED_TOKENS | OPTIONAL_TOKENS).items():
            setattr(self, attribute, token)
        if proto is not None:
            self.set_proto(proto)

    def set_proto(self, proto: str | bytes | Path) -> None:
        """Take another SentencePiece model: a path, bytes, or bytes in base64."""
        data = proto_bytes(proto)
        if not data:
            raise ValueError("A SentencePiece model was awaited, and `proto` is empty.")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=data)
            names, rewrites = control_names(data), rewrites_letters(data)
        except (RuntimeError, LookupError) as error:  # ours are of the second kind
            raise ValueError(f"These {len(data)} bytes are no SentencePiece model.") from error
        size = processor.vocab_size()
        for attribute, token in (REQUIRED_TOKENS | OPTIONAL_TOKENS).items():
            index = processor.piece_to_id(token)
            found = 0 <= index < size and processor.id_to_piece(index) == token
            if not found and attribute in REQUIRED_TOKENS:
                raise ValueError(
                    f"The vocabulary of {size} pieces has no {token!r}. Gemma needs "
                    f"{', '.join(REQUIRED_TOKENS.values())}; give a model that holds them."
                )
            setattr(self, f"{attribute}_id", index if found else None)
            if found:
                names[token] = index
        self.proto, self._processor = data, processor
        self._vocabulary_size: int = size
        self.unk_token_id: int = processor.unk_id()
        self.control_tokens: dict[str, int] = names
        self._control_ids = frozenset(names.values())
        bytes_ = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self.byte_values = {i: byte for byte, i in enumerate(bytes_) if processor.is_byte(i)}
        self.mark_ids = [bytes_[byte] for byte in WHITESPACE_MARK.encode()]
        if not self.byte_values:
            self.mark_ids = []
        # Pieces of type CONTROL (`<bos>`) are never read out of a text, so they need no cut.
        readable = [name for name, i in names.items() if not processor.is_control(i)]
        self.parts = TextParts(readable, whitespace_mark=bool(self.mark_ids))
        # Whether a name can come of other letters than its own: then what came out is looked at, too.
        marked = any(WHITESPACE_MARK in name for name in names)
        self._is_deceptive = marked or rewrites
        self._graph = None

    # --- text to integers ---

    def __call__(self, inputs: Any, control_tokens: bool = True) -> Any:
        """The same as `tokenize`."""
        return self.tokenize(inputs, control_tokens)

    def tokenize(self, inputs: Any, control_tokens: bool = True) -> Any:
        """Ids of one text, or of a list of texts, nested as deep as you like.

        Args:
            inputs: a string, bytes in UTF-8, a list or array of them, or a TensorFlow tensor.
            control_tokens: whether `<start_of_turn>` and other names in the text act. Turn it off
                for all that others wrote: then no control token can come out of a text, and the
                text still decodes to itself.

        Raises:
            TypeError: if something in `inputs` is not a text; its position is named.
            ValueError: if a text is not Unicode (a lone surrogate, bytes that are not UTF-8).
        """
        if is_tf_tensor(inputs):
            return self.graph.tokenize(inputs, control_tokens)
        texts: list[str] = []
        shape = collect_texts(inputs, texts, ())
        rows = self.encode_batch(texts, control_tokens)
        if self.add_bos or self.add_eos:
            first, last = [self.start_token_id] * self.add_bos, [self.end_token_id] * self.add_eos
            rows = [first + row + last for row in rows]
        if self.sequence_length:
            length, pad = self.sequence_length, [self.pad_token_id]
            rows = [row[:length] + pad * (length - len(row)) for row in rows]
        if self.dtype == "string":
            rows = [self._pieces(row) for row in rows]
        else:
            rows = [np.array(row, dtype=self.dtype) for row in rows]
        result = rebuild(shape, iter(rows))
        if self.sequence_length and self.dtype != "string":
            empty = np.zeros((0, self.sequence_length), self.dtype)
            return np.array(result, self.dtype) if rows else empty
        return result

    def encode(self, text: str, control_tokens: bool = False) -> list[int]:
        """Ids of one text as a plain list, without `<bos>`, `<eos>` or padding.

        Control tokens are off here: this is what turns, conversations and data files go through.
        """
        self._check_vocabulary()
        if not control_tokens and (self._is_deceptive or self.parts.may_cut(text)):
            return self.encode_batch([text])[0]
        try:
            return self._processor.encode(text)
        except _NO_TEXT:
            self._check_unicode([text])
            raise

    def encode_batch(self, texts: list[str], control_tokens: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, which SentencePiece shares among its threads."""
        self._check_vocabulary()
        if control_tokens:
            return self._encode_raw(texts)
        may_cut = self.parts.may_cut
        cut = {i: self.parts.cut(text) for i, text in enumerate(texts) if may_cut(text)}
        rows = self._encode_raw(texts) if not cut else self._encode_parts(texts, cut)
        if self._is_deceptive:
            for i, text in enumerate(texts):
                if not self._control_ids.isdisjoint(rows[i]):
                    rows[i] = [i for letter in text for i in self._encode_raw([letter])[0]]
        return rows

    def _encode_parts(self, texts, cut):
        """Rows of texts, some of which come out of parts that are encoded apart."""
        parts = []
        for i, text in enumerate(texts):
            parts += cut.get(i) or [text]
        # The parts of one text are short, and sooner done than a pool of threads is made.
        threads = {"num_threads": 1} if len(texts) == 1 else {}
        encoded = iter(
            self._encode_raw([p if p != WHITESPACE_MARK else "" for p in parts], **threads)
        )
        rows = []
        for i in range(len(texts)):
            if i not in cut:
                rows.append(next(encoded))
                continue
            row = []
            for part in cut[i]:
                row += next(encoded) or self._ids_of_mark(part)
            rows.append(row)
        return rows

    def _ids_of_mark(self, part):
        if part != WHITESPACE_MARK:
            return []
        return self.mark_ids or self._encode_raw([part])[0]

    def _encode_raw(self, texts, **threads):
        try:
            if len(texts) == 1:  # a list of one would wait for a pool of threads
                return [self._processor.encode(texts[0])]
            return self._processor.encode(texts, **threads)
        except _NO_TEXT:
            self._check_unicode(texts)
            raise

    def _check_unicode(self, texts):
        for number, text in enumerate(texts):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError(surrogate_message(text, number)) from None

    # --- integers to text ---

    def detokenize(self, inputs: Any) -> Any:
        """Text of a list of ids, or a list of texts for lists of them, nested as deep as you like.

        Args:
            inputs: an id, a list, an array or a tensor of ids; or pieces instead of ids.

        Raises:
            ValueError: if an id is outside the vocabulary.
            TypeError: if something is no integer; its position is named.
        """
        self._check_vocabulary()
        if is_tf_tensor(inputs):
            if is_in_graph():
                return self.graph.detokenize(inputs)
            inputs = inputs.numpy()
        elif keras.ops.is_tensor(inputs):
            inputs = keras.ops.convert_to_numpy(inputs)
        if isinstance(inputs, (np.ndarray, np.generic)):
            inputs = inputs.tolist()
        if isinstance(inputs, str) or not isinstance(inputs, Sequence):
            inputs = [inputs]
        return self._decode(inputs, ())

    def _decode(self, inputs, where):
        if len(inputs) and isinstance(inputs[0], (list, tuple, np.ndarray)):
            return [self._decode(row, (*where, i)) for i, row in enumerate(inputs)]
        if len(inputs) and all(isinstance(piece, str) for piece in inputs):
            return self._processor.decode(list(inputs))
        return self._processor.decode([self._id(v, (*where, i)) for i, v in enumerate(inputs)])

    def _id(self, value, where=()):
        try:
            index = operator.index(value)
        except TypeError:
            message = f"An integer id was awaited{at_position(where)}, not {type(value).__name__} {value!r}."
            raise TypeError(message) from None
        if not 0 <= index < self._vocabulary_size:
            raise ValueError(
                f"Id {index}{at_position(where)} is outside the vocabulary: ids run from 0 to "
                f"{self._vocabulary_size - 1}."
            )
        return index

    # --- the vocabulary ---

    def vocabulary_size(self) -> int:
        """How many pieces there are; ids run from 0 to one less."""
        self._check_vocabulary()
        return self._vocabulary_size

    def get_vocabulary(self) -> list[str]:
        """Every piece, in the order of its id. A space is written `▁`."""
        return self._pieces(range(self.vocabulary_size()))

    def id_to_token(self, id: int) -> str:
        """The piece of an id."""
        self._check_vocabulary()
        return self._processor.id_to_piece(self._id(id))

    def token_to_id(self, token: str | bytes) -> int:
        """The id of a piece; that of `<unk>` if there is no such piece."""
        self._check_vocabulary()
        if isinstance(token, bytes):
            token = token.decode("utf-8")
        return self._processor.piece_to_id(token)

    @property
    def special_tokens(self) -> list[str]:
        """`<bos>`, `<eos>` and `<pad>`: what `generate` takes out of its answers."""
        return [getattr(self, attribute) for attribute in REQUIRED_TOKENS]

    @property
    def special_token_ids(self) -> list[int]:
        """The ids of `special_tokens`."""
        self._check_vocabulary()
        return [getattr(self, f"{attribute}_id") for attribute in REQUIRED_TOKENS]

    def __repr__(self):
        size = self._vocabulary_size if self.proto else None
        return f"<{type(self).__name__} name={self.name}, vocabulary_size={size}>"

    def __getstate__(self):
        return {**self.__dict__, "_graph": None}

    def _check_vocabulary(self):
        if self.proto is None:
            raise ValueError(
                "This tokenizer has no vocabulary yet. Give it `proto`, or load_assets."
            )

    def _pieces(self, ids):
        return self._processor.id_to_piece([int(index) for index in ids])

    @property
    def graph(self) -> Any:
        """The same tokenizer for TensorFlow graphs; asking for it imports TensorFlow."""
        self._check_vocabulary()
        if self._graph is None:
            from keras_gemma.text.graph_tokenizer import GraphTokenizer

            self._graph = GraphTokenizer(self)
        else:
            self._graph.read()
        return self._graph


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3Tokenizer(GemmaTokenizer):
    """`GemmaTokenizer` under the name that KerasHub gives it for Gemma 3 (text)."""

    preset_class = "Gemma3Tokenizer"

    def preset_config(self) -> dict[str, Any]:
        config = super().preset_config()
        config["config"]["has_vision_tokens"] = False  # else KerasHub asks for those of images
        return config
