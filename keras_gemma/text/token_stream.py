"""Ids one by one to text, never half a character."""

from typing import Any

from keras_gemma.text.control_tokens import WHITESPACE_MARK


class StreamDecoder:
    """Turns ids into text as they come.

    Gemma writes a character that has no piece of its own as the bytes of its UTF-8 form, one token
    each. They are held back until the character is whole. All that `push` and `finish` return,
    joined, is what `tokenizer.detokenize` makes of all the ids at once.

        decoder = StreamDecoder(tokenizer)
        for index in ids:
            print(decoder.push(index), end="", flush=True)
        print(decoder.finish())
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._pending = b""
        self._begun = False

    def push(self, id: int) -> str:
        """The text that this id completes; empty while a character is not whole."""
        piece = self._tokenizer.id_to_token(id)
        byte = self._tokenizer.byte_values.get(int(id))
        if byte is None:
            return self.finish() + self._text(int(id), piece)
        self._pending += bytes([byte])
        text, self._pending = _whole_characters(self._pending)
        self._begun = self._begun or bool(text)
        return text

    def finish(self) -> str:
        """What is still held back, where the text ends; a broken character becomes `�`."""
        text = "�" * len(self._pending)
        self._pending = b""
        self._begun = self._begun or bool(text)
        return text

    def _text(self, index, piece):
        # Alone, a piece is written as at the head of a text, where some vocabularies drop a
        # space; control tokens come out empty, and `<unk>` as SentencePiece's sign for it.
        alone = self._tokenizer.detokenize([index])
        text = piece.replace(WHITESPACE_MARK, " ")
        if not self._begun or text.lstrip(" ") != alone.lstrip(" "):
            text = alone
        self._begun = self._begun or bool(text)
        return text


def _whole_characters(data):
    """The characters at the head of these bytes, and the bytes of one not yet whole."""
    text = ""
    while data:
        size = _size_of_first(data)
        if size > len(data):
            return text, data
        text += data[:size].decode("utf-8", errors="replace") if size else "�"
        data = data[size or 1 :]
    return text, b""


def _size_of_first(data):
    """Bytes of the first character, those still to come included; 0 if it can't be one."""
    for size in range(1, 5):
        try:
            data[:size].decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                if size >= len(data):
                    return size + 1
                continue
            return 0
        return size
    return 0
