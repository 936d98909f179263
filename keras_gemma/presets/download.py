"""From a handle to a folder with the files that are asked for, fetched where they are not here yet."""

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_gemma.presets import access, bundle
from keras_gemma.presets.access import Missing, Unreachable, out_of_reach, refused
from keras_gemma.presets.errors import BadPresetError, NoSpaceError, PresetError
from keras_gemma.presets.file_lock import locked
from keras_gemma.presets.handles import home, parse
from keras_gemma.presets.hub_folder import Folder
from keras_gemma.presets.hub_huggingface import HuggingFace
from keras_gemma.presets.hub_kaggle import Kaggle
from keras_gemma.presets.parts import PARTS, Needed, checked
from keras_gemma.presets.record import Record
from keras_gemma.presets.transfer import (
    Damaged,
    Progress,
    check_space,
    is_web_page,
    no_space,
    sha256,
)

_SOURCES = {"hf": HuggingFace, "kaggle": Kaggle}
_HUBS = {"kaggle": Kaggle, "huggingface": HuggingFace}  # in order of preference


def choose(sources: Mapping[str, str]) -> str:
    """The handle to fetch from, of a card's `sources`.

    One that is on this machine already; else Kaggle's, whose files need no conversion; but Hugging
    Face's where that is the only hub whose client is installed, or the only one signed in to.
    """
    for handle in sources.values():
        if Record(parse(handle)).missing(PARTS) == []:
            return handle
    hubs = {hub: source for hub, source in _HUBS.items() if hub in sources}
    there = [hub for hub, source in hubs.items() if importlib.util.find_spec(source.package)]
    signed = [hub for hub in there if len(there) > 1 and hubs[hub].signed_in()]
    return sources[next(iter(signed or there or sources))]


def fetch(
    handle: str,
    parts: Iterable[str] = PARTS,
    *,
    card: Mapping[str, Any] | None = None,
    known: Iterable[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Path:
    """The folder of a preset that lies elsewhere; of `hf://owner/repository/file.gguf`, that file.

    What is here already is not fetched again; what was interrupted goes on where it stopped. One
    process fetches, and another that wants the same waits.

    Args:
        handle: see `handles`.
        parts: of `"config"`, `"tokenizer"` and `"weights"`, those that are needed.
        card: the preset's card: where its licence is accepted, and its checksums.
        known: other handles, among which a mistyped one may be.
        progress: is told how far each file is.
        say: is told in words what takes its time.

    Raises:
        PresetAccessError: no access, no such place or no network; it says what to do.
        BadPresetError: a file came damaged twice.
        NoSpaceError: the disk is too small.
        PresetError: what lies there is no preset.
    """
    place = parse(handle)
    wanted = ("file",) if place.file else checked(parts)
    record = Record(place)
    # What can't have changed needs no question.
    if place.pinned and record.missing(wanted) == []:
        return _result(record.folder, place)
    with locked(home() / "presets" / "locks" / f"{place.key}.lock", say):
        record = Record(place)  # the one before us may have fetched it all
        if place.pinned and record.missing(wanted) == []:
            return _result(record.folder, place)
        return _fetch(place, wanted, record, card, list(known), progress)


def _fetch(place, parts, record, card, known, progress):
    try:
        source = _SOURCES.get(place.scheme, Folder)(place, card, known, progress)
    except ImportError:
        if record.missing(parts) == []:
            return _result(record.folder, place)
        raise access.package_missing(place) from None
    try:
        source.connect()
        names = _names(source, parts, place)
        record.plan(source.folder, names)
        every = dict.fromkeys(itertools.chain.from_iterable(names.values()))
        _get_all(source, every, record, progress)
    except Unreachable as error:
        return _from_cache(source, place, parts, record, error)
    except OSError as error:
        if not no_space(error):
            raise
        raise NoSpaceError(
            f"The disk of {source.cache} is full; what was fetched of the last file is removed. Make "
            f"room, or set {source.cache_variable} to a folder on another disk."
        ) from None
    return _result(record.folder, place)


def _names(source, parts, place):
    """The files that each part needs."""
    if place.file:
        if not source.has(place.file):
            raise refused(place, 404, source.card, place.file, known=source.files or ())
        return {"file": [place.file]}

    def read(name):
        path = _get(source, name)
        return bundle.read_json(path.parent, path.name)

    needed = Needed(place.text, source.has, read, source.files or ())
    return {part: needed.files([part]) for part in parts}


def _get_all(source, names, record, progress):
    left = [
        name
        for name in names
        if not record.is_whole(name) or source.partial(name) < record.whole[name]
    ]
    sizes = {name: (source.files or {}).get(name) for name in left}
    here = {name: source.partial(name) for name in left}
    needed = sum(max(0, (sizes[name] or 0) - here[name]) for name in left)
    check_space(needed, source.cache, source.cache_variable)
    for name in left:
        if progress:
            progress(name, here[name], sizes[name])
    for name in left:
        size = _get(source, name, record).stat().st_size
        if progress:
            progress(name, size, size)


def _get(source, name, record=None):
    """A file, looked at if it is new; a damaged one is fetched once more, then refused."""
    fault, aside = "", None
    for _ in range(2):
        try:
            path = source.get(name)
        except Damaged as error:
            fault = str(error)
            continue
        except Missing:
            raise refused(source.handle, 404, source.card, name, known=source.files or ()) from None
        fault = _fault(source, path, name, record is not None)
        if not fault:
            if record:
                record.came(name)
            return path
        aside = source.discard(name)
    kept = f" The last one is set aside as {aside}." if aside else ""
    raise BadPresetError(
        f"{source.handle.text}: {fault}, twice over; it is not used.{kept} A proxy on the way, or "
        "the file at its source, may be broken."
    )


def _fault(source, path, name, whole):
    if is_web_page(path):
        return f"instead of {name} came a web page, as proxies and sign-in pages send"
    if not whole:
        return ""
    for awaited in (_recorded(source, name), {"sha256": source.expected_sum(name)}):
        size, total = awaited.get("size"), awaited.get("sha256")
        if size is not None and path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} awaited"
        if total and (found := sha256(path)) != total:
            return f"{name} has the sha256 {found[:12]}…, {total[:12]}… awaited"
    return ""


def _recorded(source, name):
    """What the card says of a file."""
    if not source.card:
        return {}
    scheme = {"hf": "huggingface"}.get(source.handle.scheme, source.handle.scheme)
    return source.card.get("checksums", {}).get(scheme, {}).get(name, {})


def _from_cache(source, place, parts, record, why):
    """The folder, if all that is asked for is here; else an error that names what is not."""
    missing = record.missing(parts)
    if missing == []:
        return _result(record.folder, place)
    folder = source.local()
    if missing is None and folder is not None:
        missing = _missing_of(source, folder, parts, place)
        if not missing:
            return _result(folder, place)
    raise out_of_reach(place, why, missing) from why


def _missing_of(source, folder, parts, place):
    def has(name):
        return source.local_has(folder, name)

    if place.file:
        return [] if has(place.file) else [place.file]
    listing = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    needed = Needed(place.text, has, lambda name: bundle.read_json(folder, name), listing)
    try:
        names = {part: needed.files([part]) for part in parts}
    except PresetError:
        return ["config.json"]
    base = set(needed.files(["config"]))
    missing = [name for part in parts for name in names[part] if not has(name)]
    lacking = [part for part in parts if part != "config" and base >= set(names[part])]
    return [*dict.fromkeys(missing), *(f"its {part}" for part in lacking)]


def _result(folder, place) -> Path:
    return Path(folder, place.file) if place.file else Path(folder)
