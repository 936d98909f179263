"""Stop strings, found in text that comes piece by piece."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string appears; never shows a part of one.

    >>> stops = StopStrings(["END"])
    >>> [stops.push(piece) for piece in ("one E", "N", "", "D two")]
    ['one ', '', '', '']
    >>> stops.found
    True
    """

    def __init__(self, strings: Sequence[str] = ()):
        self.strings = [strings] if isinstance(strings, str) else list(strings or ())
        for string in self.strings:
            if not isinstance(string, str) or not string:
                raise ValueError(f"A stop string must be a string that isn't empty: {string!r}.")
        self.found = False
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that may be shown now."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        self._held = text[len(text) - self._could_begin(text) :]
        return text[: len(text) - len(self._held)]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _could_begin(self, text):
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max(map(len, self.strings), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-size:]) for string in self.strings):
                return size
        return 0
