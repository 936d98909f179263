"""A preset folder to a hub, for others to load by its handle."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from keras_gemma.presets import bundle, download
from keras_gemma.presets.access import Missing, Unreachable, package_missing
from keras_gemma.presets.errors import BadPresetError, PresetAccessError, PresetError
from keras_gemma.presets.handles import Handle, parse
from keras_gemma.presets.hub_huggingface import HuggingFace
from keras_gemma.presets.hub_kaggle import Kaggle
from keras_gemma.presets.parts import PARTS, VOCABULARY, Needed
from keras_gemma.presets.sizes import parameter_count

_PARTIAL = ("*.part", "*.corrupt", ".*")
_README = "README.md"


def upload_preset(
    uri: str,
    preset: str | Path,
    overwrite: bool | Callable[[str], bool] | None = None,
    allow_incomplete: bool = False,
) -> str:
    """Upload a preset folder, as `save_to_preset` writes one, to a hub.

    A folder without a README.md gets one that says what the model is and how it is loaded.

    Args:
        uri: `"hf://OWNER/REPOSITORY"` or `"kaggle://OWNER/MODEL/FRAMEWORK/VARIATION"`.
        preset: the folder.
        overwrite: whether files that are there already may be replaced (on Kaggle: whether a new
            version may take the place of the newest): yes, no, or a function that is asked with a
            sentence. Left out, the person at the terminal is asked; where there is none it is an
            error.
        allow_incomplete: upload a folder without weights or tokenizer, too.

    Returns:
        The address of the page where it can be seen.

    Raises:
        BadPresetError: the folder is no whole preset.
        PresetAccessError: not signed in, or not allowed to write there.
        PresetError: something is there, and it may not be replaced.
    """
    handle = parse(uri)
    upload = {"hf": _to_hugging_face, "kaggle": _to_kaggle}.get(handle.scheme)
    if upload is None or handle.file or handle.revision:
        raise PresetError(
            f"{uri}: uploads go to hf://OWNER/REPOSITORY or kaggle://OWNER/MODEL/FRAMEWORK/"
            "VARIATION, without a version or a file."
        )
    folder = Path(preset).expanduser()
    _check_whole(folder, allow_incomplete)
    try:
        return upload(handle, folder, overwrite)
    except ImportError:
        raise package_missing(handle) from None
    except Unreachable as error:
        raise PresetAccessError(f"{uri} can't be reached ({error}). Run it again.") from error


def _check_whole(folder, allow_incomplete):
    bundle.read_backbone(folder)
    listing = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    needed = Needed(
        str(folder), listing.__contains__, lambda name: bundle.read_json(folder, name), listing
    )
    for name in needed.files(PARTS):
        if name not in listing:
            raise BadPresetError(bundle.missing(folder, name))
    has = {
        "weights": bool(set(needed.files(["weights"])) - set(needed.files(["config"]))),
        "tokenizer": {"tokenizer.json", VOCABULARY} <= set(listing),
    }
    for part, there in has.items():
        if not there and not allow_incomplete:
            raise BadPresetError(
                f"{folder} has no {part}. Save the whole model with save_to_preset, or pass "
                "allow_incomplete=True."
            )


def _to_hugging_face(handle, folder, overwrite):
    source = HuggingFace(handle, None, (), None)
    hub = source.hub
    if hub.get_token() is None:
        raise download.refused(handle, 401, gated=True)
    with contextlib.suppress(PresetAccessError):  # there is no such repository yet
        source.connect()
    ours = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    _ask(handle, sorted(ours & set(source.files)), overwrite)
    if _README not in source.files:
        _write_readme(folder, handle)
    with source.errors():
        client = hub.HfApi()
        client.create_repo(handle.place, exist_ok=True)
        client.upload_folder(
            repo_id=handle.place, folder_path=folder, ignore_patterns=list(_PARTIAL)
        )
    return f"{hub.constants.ENDPOINT}/{handle.place}"


def _to_kaggle(handle, folder, overwrite):
    source = Kaggle(handle, None, (), None)
    if not source.signed_in():
        raise download.refused(handle, 401, gated=True)
    with contextlib.suppress(PresetAccessError, Missing):
        source.connect()
    _ask(handle, sorted(source.files or ()), overwrite)
    _write_readme(folder, handle)
    with source.errors():
        source.hub.model_upload(handle.place, str(folder), ignore_patterns=list(_PARTIAL))
    return f"https://www.kaggle.com/models/{handle.place}"


def _ask(handle, there, overwrite):
    """Go on only where nothing is there, or somebody says that it may be replaced."""
    if not there:
        return
    more = f" and {len(there) - 3} more" if len(there) > 3 else ""
    what = f"{handle.text} has {', '.join(there[:3])}{more} already"
    question = f"{what}. Replace?"
    if overwrite is None:
        if not sys.stdin.isatty():
            raise PresetError(f"{what}. Pass overwrite=True to replace them.")
        overwrite = input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    elif callable(overwrite):
        overwrite = overwrite(question)
    if not overwrite:
        raise PresetError(f"{what}, and they may not be replaced. Nothing was uploaded.")


def _write_readme(folder: Path, handle: Handle) -> None:
    path = folder / _README
    if path.exists():
        return
    part = folder / f"{_README}.{os.getpid()}.part"
    part.write_text(readme(folder, handle.text), encoding="utf-8")
    part.replace(path)


def readme(folder: Path, handle: str) -> str:
    """A page about a preset: what its files say of it, and no more."""
    backbone, config = bundle.read_backbone(folder)
    count = parameter_count(backbone, config)
    task = backbone.replace("Backbone", "CausalLM")
    options = {k: v for k, v in config.items() if k not in ("name", "trainable")}
    rows = "\n".join(f"| `{name}` | {json.dumps(value)} |" for name, value in options.items())
    return f"""---
library_name: keras-hub
pipeline_tag: text-generation
---

A `{backbone}` of {count:,} parameters.

```python
from keras_gemma import {task}

model = {task}.from_preset("{handle}")
print(model.generate("Once upon a time", max_length=64))
```

`keras_hub.models.{task}.from_preset` reads it, too.

| | |
|---|---|
{rows}

This page was written from the files beside it. What the model was trained on, what it is good for
and under which licence it may be used, its author has yet to add.
"""
