"""What is measured of a preset where it can be fetched, written into its card: never typed in."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_gemma.presets import registry
from keras_gemma.presets.cards import check_card
from keras_gemma.presets.errors import PresetError
from keras_gemma.presets.handles import parse
from keras_gemma.presets.record import Record
from keras_gemma.presets.transfer import sha256


def published(preset: str | Path) -> tuple[str, str] | None:
    """`(name, source)` of a preset that has a card and lies elsewhere; `None` of a folder.

    >>> published("gemma_tiny_en")
    >>> published("hf://google/gemma-2b")
    ('gemma_2b_en', 'huggingface')
    """
    given = os.fspath(preset)
    name = registry.alias(given) or given
    if name not in registry.names() or registry.is_bundled(name):
        return None
    if "://" not in given and Path(given).is_dir():
        return None
    handle = registry.handle(given)
    return name, next(k for k, h in registry.card(name)["sources"].items() if h == handle)


def files_of(preset: str | Path, place: Path) -> list[str]:
    """The files of a preset that has been fetched to `place`: those that a model is made of.

    Of a folder, all that lie in it.
    """
    if place.is_file():
        return [place.name]
    if published(preset) or "://" in os.fspath(preset):
        record = Record(parse(registry.handle(preset)))
        if record.folder == place and record.parts:
            return sorted({name for names in record.parts.values() for name in names})
    found = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not path.name.startswith("."))


def checksums(place: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The sha256 and the size of files in a folder, by name."""
    folder = place.parent if place.is_file() else place
    return {
        name: {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
        for name in names
    }


def write_card(
    name: str,
    source: str,
    sums: dict[str, dict[str, Any]],
    golden: dict[str, Any],
    out: Path | None = None,
) -> Path:
    """A published preset's card with what was measured, in its place or as `out`.

    Checksums of other sources stay; golden logits are of one model, whichever source it came from.

    Raises:
        PresetError: the card can't be written there.
    """
    place = registry.root() / f"{name}.json"
    card = json.loads(place.read_text(encoding="utf-8"))
    card["checksums"] = {**card.get("checksums", {}), source: sums}
    card["golden_logits"] = golden
    check_card({**card, "bundled": False}, place.name)
    return write_record(card, out or place)


def write_record(record: dict[str, Any], out: Path) -> Path:
    """A JSON file that appears whole or not at all.

    Raises:
        PresetError: it can't be written there.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PresetError(
            f"{out} can't be written: {error.strerror}. Name a file to write."
        ) from None
    return out
