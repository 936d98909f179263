"""What was fetched of a handle, written down: to need no network for it again, and to tell by name
what is missing."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from keras_gemma.presets.handles import Handle, home


class Record:
    """A small file for each handle.

    `folder` is where its files lie; `parts` the files that each part needs, noted before they are
    fetched, so that an interrupted download is known for one; `whole` those that came whole, with
    their sizes.
    """

    def __init__(self, handle: Handle):
        self.path = home() / "presets" / "records" / f"{handle.key}.json"
        self._text = handle.text
        self.folder: Path | None = None
        self.parts: dict[str, list[str]] = {}
        self.whole: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["handle"] == handle.text:
                folder, parts, whole = (found[key] for key in ("folder", "parts", "whole"))
                self.parts = {part: list(map(str, names)) for part, names in parts.items()}
                self.whole = {str(name): int(size) for name, size in whole.items()}
                self.folder = Path(folder)

    def missing(self, parts: Iterable[str]) -> list[str] | None:
        """Files of those parts that are not here whole; None where it isn't known which they are."""
        if self.folder is None or not all(part in self.parts for part in parts):
            return None
        names = dict.fromkeys(name for part in parts for name in self.parts[part])
        return [name for name in names if not self.is_whole(name)]

    def is_whole(self, name: str) -> bool:
        """Whether that file is as it was when it came."""
        try:
            return (self.folder / name).stat().st_size == self.whole.get(name)
        except OSError:
            return False

    def plan(self, folder: Path, parts: Mapping[str, list[str]]) -> None:
        """Note what is to be fetched. In another folder than before, nothing of before counts."""
        if folder != self.folder:
            self.folder, self.parts, self.whole = folder, {}, {}
        self.parts |= parts
        self._save()

    def came(self, name: str) -> None:
        """Note that a file came, and was seen to be as it should."""
        self.whole[name] = (self.folder / name).stat().st_size
        self._save()

    def _save(self):
        content = {
            "handle": self._text,
            "folder": str(self.folder),
            "parts": self.parts,
            "whole": self.whole,
        }
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        with contextlib.suppress(OSError):  # without a record it is asked for again, no more
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")
            part.replace(self.path)
