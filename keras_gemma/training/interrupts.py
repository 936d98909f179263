"""Ctrl-C and SIGTERM while a run works: the step ends first."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupts:
    """Remembers the first signal that asks the run to end. The second acts as it always did: at once."""

    def __init__(self):
        self.came: signal.Signals | None = None
        self._before = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for signals meanwhile; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            self._hand_back()

    def act(self) -> None:
        """End as the signal asked: KeyboardInterrupt, or exit code 143 for SIGTERM."""
        if self.came == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _note(self, number, frame):
        self.came = signal.Signals(number)
        self._hand_back()

    def _hand_back(self):
        while self._before:
            signal.signal(*self._before.popitem())
