"""What to say when a place refuses: where access is granted, and how one signs in.

The messages are made from the handle and a number. What a server or a client wrote goes into none of
them, since it may repeat a token.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from keras_gemma.presets.errors import PresetAccessError
from keras_gemma.presets.handles import Handle, nearest

SIGN_IN = {
    "hf": "`hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens",
    "kaggle": "`python -c 'import kagglehub; kagglehub.login()'` for this process, or set "
    "KAGGLE_API_TOKEN to a token of https://www.kaggle.com/settings/api (older: KAGGLE_USERNAME and "
    "KAGGLE_KEY, or ~/.kaggle/kaggle.json)",
}
PACKAGES = {"hf": "huggingface-hub", "kaggle": "kagglehub"}


class Unreachable(Exception):
    """There was no answer, or none that could be used; what is in the cache may still do."""


class Missing(Exception):
    """A place answered that it has no such file."""


def package_missing(handle: Handle) -> PresetAccessError:
    """The client of a hub is not installed."""
    package = PACKAGES.get(handle.scheme, "'keras-gemma[cloud]'")
    return PresetAccessError(
        f"{handle.text} is fetched with {package.strip(chr(39))}, which is not installed: "
        f"pip install {package}"
    )


def page(handle: Handle, card: Mapping[str, Any] | None = None) -> str:
    """The page where one is granted access to what lies there."""
    if card:
        for source, where in card["sources"].items():
            if where.partition("://")[0] == handle.scheme:
                return card["licence"]["accept_at"][source]
    if handle.scheme == "hf":
        return f"https://huggingface.co/{handle.place}"
    if handle.scheme == "kaggle":
        return f"https://www.kaggle.com/models/{'/'.join(handle.place.split('/')[:2])}"
    return handle.text


def refused(
    handle: Handle,
    status: int,
    card: Mapping[str, Any] | None = None,
    file: str | None = None,
    gated: bool = False,
    known: Iterable[str] = (),
    wait: str | None = None,
) -> Exception:
    """The error for an answer that is not what was asked for; `Unreachable` if it will pass.

    Args:
        handle: what was asked for.
        status: the number that came back.
        card: the preset's card, for the page of its licence.
        file: the file asked for.
        gated: whether the place said that this is a matter of access.
        known: names among which the right one may be.
        wait: seconds after which one may ask again, as the server said.
    """
    what = f"{handle.text}{f' ({file})' if file else ''}"
    where, sign_in = page(handle, card), SIGN_IN.get(handle.scheme)
    if status in (401, 403):
        hidden = "" if gated or status == 403 else " or does not exist"
        how = f" Then sign in here: {sign_in}." if sign_in else " Sign in to that place first."
        # A hub does not tell a stranger whether a private name exists.
        near = "" if gated else nearest(handle.text, known)
        return PresetAccessError(
            f"{what}: access is refused ({status}); it is gated{hidden}.{near} Ask for access, or "
            f"accept its licence, at {where}.{how}"
        )
    if status == 404:
        name = file or handle.text
        near = nearest(name, known) or (" See " + where + "." if handle.scheme != "https" else "")
        return PresetAccessError(f"{what} does not exist there (404).{near}")
    if status == 429:
        until = f"wait {wait} seconds" if wait else "wait a while"
        more = f", or sign in to be allowed more: {sign_in}" if sign_in else ""
        return Unreachable(f"asked too often, 429: {until}{more}")
    if status >= 500:
        return Unreachable(f"it answered {status}, which is its own trouble: try again later")
    return PresetAccessError(f"{what}: the place answered {status}. See {where}.")


def out_of_reach(handle: Handle, why: object, missing: list[str] | None) -> PresetAccessError:
    """No network, or an offline switch, and not everything is in the cache."""
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        state = f"not in the cache: {', '.join(missing[:8])}{more}"
    else:
        state = "nothing of it is in the cache"
    return PresetAccessError(
        f"{handle.text} can't be reached ({why}), and {state}. What was fetched is kept, and "
        "`keras-gemma download` goes on from there; once all is here no network is needed."
    )
