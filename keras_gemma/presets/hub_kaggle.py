"""Files of Kaggle's hub, through its own client: its cache, credentials and mounts in notebooks.

The client goes on with a file where it stopped, and takes no lock: `download` holds one meanwhile.
"""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_gemma.presets.access import Missing, Unreachable, refused
from keras_gemma.presets.errors import PresetAccessError
from keras_gemma.presets.handles import Handle
from keras_gemma.presets.transfer import Damaged, no_space, set_aside, watched

_MOST_PAGES = 100
SECONDS = (10, 60)  # to wait for a connection, and for each answer


class Kaggle:
    """One variation of a model at one version."""

    package = "kagglehub"
    cache_variable = "KAGGLEHUB_CACHE"

    @staticmethod
    def signed_in() -> bool:
        """Whether the client knows credentials, or needs none in the notebook that it runs in."""
        import kagglehub.config

        return bool(_in_notebook() or kagglehub.config.get_kaggle_credentials())

    def __init__(self, handle: Handle, card: Mapping[str, Any] | None, known, progress):
        import kagglehub.clients
        import kagglehub.config
        import kagglehub.exceptions

        _limit_waiting()
        self.hub, self.handle, self.card = kagglehub, handle, card
        self.known, self.progress = known, progress
        self.version = handle.revision
        # None where the hub is not asked: in a notebook of Kaggle's or Colab's, files are mounted,
        # maybe without a network, and whether one is there is found by asking for it.
        self.files: dict[str, int | None] | None = None
        self._folder: Path | None = None

    def connect(self) -> None:
        """Ask for the newest version, if none was named, and for the list of its files."""
        if _in_notebook():
            return
        with self.errors():
            self.files = self._listing()

    def _listing(self):
        from kagglehub.handle import parse_model_handle
        from kagglesdk.models.types import model_api_service as api

        owner, model, _, variation = self.handle.place.split("/")
        parsed = parse_model_handle(self.handle.place)

        def request(kind):
            made = kind()
            made.owner_slug, made.model_slug, made.instance_slug = owner, model, variation
            made.framework = parsed.framework_enum()
            return made

        found: dict[str, int | None] = {}
        with self.hub.clients.build_kaggle_client() as client:
            models = client.models.model_api_client
            if self.version is None:
                instance = models.get_model_instance(request(api.ApiGetModelInstanceRequest))
                self.version = str(instance.version_number)
            asked = request(api.ApiListModelInstanceVersionFilesRequest)
            asked.version_number = int(self.version)
            for _ in range(_MOST_PAGES):
                answer = models.list_model_instance_version_files(asked)
                found |= {file.name: file.size or None for file in answer.files}
                if not answer.next_page_token:
                    break
                asked.page_token = answer.next_page_token
        return found

    @property
    def cache(self) -> Path:
        """The folder that files are kept in."""
        return Path(self.hub.config.get_cache_folder())

    @property
    def folder(self) -> Path:
        """Where this version's files lie."""
        return self._folder or self.cache / "models" / self.handle.place / str(self.version)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if self.files is not None:
            return name in self.files
        try:
            self.get(name)
        except Missing:
            return False
        return True

    def local(self) -> Path | None:
        """The folder of what was fetched of it before, by any program."""
        place = self.cache / "models" / self.handle.place
        if self.version is None:
            versions = [int(path.name) for path in place.glob("*") if path.name.isdecimal()]
            self.version = str(max(versions)) if versions else None
        place = place / str(self.version)
        return place if place.is_dir() else None

    def local_has(self, folder: Path, name: str) -> bool:
        """Whether that file lies whole in the cache: the client marks those that do."""
        marks = (
            folder.parent / f"{folder.name}.complete",
            folder.parent / ".complete" / folder.name / f"{name}.complete",
        )
        return (folder / name).is_file() and any(mark.is_file() for mark in marks)

    def partial(self, name: str) -> int:
        """Bytes of that file that are here already."""
        place = self.folder / name
        return place.stat().st_size if place.is_file() else 0

    def get(self, name: str) -> Path:
        """The file, fetched if it is not here."""
        if self.files is not None and name not in self.files:
            raise Missing(name)
        handle = f"{self.handle.place}/{self.version}" if self.version else self.handle.place
        size = (self.files or {}).get(name)
        with contextlib.ExitStack() as stack:
            if self.progress:  # the client's own bars and words would run into ours
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                stack.enter_context(watched(self.folder / name, name, size, self.progress))
            stack.enter_context(self.errors(name))
            path = Path(self.hub.model_download(handle, path=name))
        self._folder = path.parents[name.count("/")]
        if size is not None and (here := path.stat().st_size) != size:
            set_aside(path)
            raise Damaged(f"{name} has {here} bytes, {size} awaited")
        return path

    def expected_sum(self, name: str) -> str | None:
        """Kaggle gives no sha256; its client compares an md5 that comes with the file."""
        return None

    def discard(self, name: str) -> Path:
        """Set a damaged file aside, so that nobody takes it for whole."""
        return set_aside(self.folder / name)

    @contextlib.contextmanager
    def errors(self, file: str | None = None) -> Iterator[None]:
        """While the client works: its errors become ours."""
        import requests

        try:
            yield
        except self.hub.exceptions.DataCorruptionError:
            raise Damaged(f"{file} came with another md5 than the hub told") from None
        except self.hub.exceptions.BackendError as error:  # of an upload: it tells what is amiss
            raise PresetAccessError(f"{self.handle.text}: Kaggle says: {error}") from None
        except requests.HTTPError as error:
            answer = error.response
            if answer is None:
                raise Unreachable("no answer") from error
            status = answer.status_code
            if status < 400:  # an error may also stand in an answer that says all is well
                status = int(answer.json()["code"])
            if status == 404 and file and self.files is None:
                raise Missing(file) from None
            raise refused(
                self.handle,
                status,
                self.card,
                file,
                known=(self.files or ()) if file else self.known,
                wait=answer.headers.get("Retry-After"),
            ) from None
        except requests.exceptions.JSONDecodeError as error:
            raise _no_hub() from error
        except OSError as error:  # which those of requests are
            if no_space(error):
                (self.folder / str(file)).unlink(missing_ok=True)
                raise
            raise Unreachable(f"no connection: {type(error).__name__}") from error
        except ValueError as error:
            if type(error).__name__ == "JSONDecodeError":
                raise _no_hub() from error
            if "is not present in the model files" in str(error):  # of a mount in a notebook
                raise Missing(file) from None
            raise


def _limit_waiting():
    """The client asks for lists and addresses without a limit: a silent server would hold it."""
    import requests
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    begin = getattr(KaggleHttpClient, "_init_session", None)
    if begin is None or hasattr(begin, "is_limited"):
        return

    class Limited(requests.adapters.HTTPAdapter):
        def send(self, request, stream=False, timeout=None, **keywords):
            return super().send(request, stream, timeout or SECONDS, **keywords)

    def begin_limited(client):
        is_new = client._session is None
        result = begin(client)
        if is_new:
            for scheme in ("https://", "http://"):
                client._session.mount(scheme, Limited())
        return result

    begin_limited.is_limited = True
    KaggleHttpClient._init_session = begin_limited


def _in_notebook():
    """Whether files are mounted here: the variables by which the client knows of it."""
    return "KAGGLE_DATA_PROXY_URL" in os.environ or "TBE_RUNTIME_ADDR" in os.environ


def _no_hub():
    return Unreachable("the answer is not one of the hub's; a proxy or sign-in page may be between")
