"""Files of the Hugging Face hub, through its own client: its cache, token, endpoint, offline switch.

The client (2.4) throws away what it had of a file when its process ends. Large files are therefore
fetched in two steps: into a part file beside the cache's blobs, which the client's `http_get` goes on
with where it stopped; then the client finds the blob and links it into its snapshot.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keras_gemma.presets.access import Missing, Unreachable, refused
from keras_gemma.presets.handles import Handle
from keras_gemma.presets.transfer import no_space, set_aside, watched

_LARGE = 2**20  # bytes from which a part of a file is worth keeping
_SHA256 = re.compile("[0-9a-f]{64}")


class HuggingFace:
    """One repository at one commit."""

    package = "huggingface_hub"
    cache_variable = "HF_HUB_CACHE"

    @staticmethod
    def signed_in() -> bool:
        """Whether the client knows a token."""
        import huggingface_hub

        return huggingface_hub.get_token() is not None

    def __init__(self, handle: Handle, card: Mapping[str, Any] | None, known, progress):
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils

        self.hub, self.handle, self.card = huggingface_hub, handle, card
        self.known, self.progress = known, progress
        self.files: dict[str, int | None] = {}
        self.sums: dict[str, str] = {}
        self.commit: str | None = None

    def connect(self) -> None:
        """Ask for the list of files, and the commit they are of."""
        seconds = self.hub.constants.HF_HUB_ETAG_TIMEOUT
        if self.hub.constants.HF_HUB_OFFLINE:
            raise Unreachable("HF_HUB_OFFLINE is set")
        with self.errors():
            revision = self.handle.revision or "main"
            info = self.hub.HfApi().model_info(
                self.handle.place, revision=revision, files_metadata=True, timeout=seconds
            )
        self.commit = info.sha
        for file in info.siblings or ():
            self.files[file.rfilename] = file.size
            if file.lfs:
                self.sums[file.rfilename] = file.lfs.sha256
        if not self.commit:
            raise Unreachable("the answer names no commit")

    def has(self, name: str) -> bool:
        """Whether the repository has that file."""
        return name in self.files

    @property
    def cache(self) -> Path:
        """The folder that files are kept in."""
        return Path(self.hub.constants.HF_HUB_CACHE)

    @property
    def _storage(self):
        return self.cache / f"models--{self.handle.place.replace('/', '--')}"

    @property
    def folder(self) -> Path:
        """Where this commit's files lie."""
        return self._storage / "snapshots" / self.commit

    def local(self) -> Path | None:
        """The folder of what was fetched of it before, by any program."""
        revision = self.handle.revision or "main"
        reference = self._storage / "refs" / revision
        if self.handle.pinned:
            commit = revision
        elif reference.is_file():
            commit = reference.read_text().strip()
        else:
            return None
        place = self._storage / "snapshots" / commit
        return place if re.fullmatch("[0-9a-f]{40}", commit) and place.is_dir() else None

    def local_has(self, folder: Path, name: str) -> bool:
        """Whether that file lies whole in the cache."""
        return (folder / name).is_file()  # links appear when the blob is whole

    def partial(self, name: str) -> int:
        """Bytes of that file that are here already."""
        if (self.folder / name).is_file():
            return self.files.get(name) or 0
        part = self._part(self.sums.get(name, ""))
        return part.stat().st_size if part.is_file() else 0

    def get(self, name: str) -> Path:
        """The file, fetched if it is not here."""
        if name not in self.files:
            raise Missing(name)
        with self.errors(name), self._quiet():
            if (self.files[name] or 0) >= _LARGE and not (self.folder / name).is_file():
                self._fill_blob(name)
            path = Path(self.hub.hf_hub_download(self.handle.place, name, revision=self.commit))
        self._note_commit()
        return path

    def _note_commit(self):
        """Write down which commit the revision is, as the client does: others look there offline."""
        reference = self._storage / "refs" / (self.handle.revision or "main")
        if self.handle.pinned or (reference.is_file() and reference.read_text() == self.commit):
            return
        reference.parent.mkdir(parents=True, exist_ok=True)
        part = reference.with_name(f"{reference.name}.{os.getpid()}.part")
        part.write_text(self.commit)
        part.replace(reference)

    def _part(self, etag):
        return self._storage / "blobs" / f"{etag}.keras_gemma.part"

    def _fill_blob(self, name):
        if self.hub.constants.HF_XET_HIGH_PERFORMANCE:
            return  # asked for by name: faster, and begins anew when cut
        place, headers = self.hub.hf_hub_url(self.handle.place, name, revision=self.commit), {}
        found = self.hub.get_hf_file_metadata(place)
        if not found.etag or not re.fullmatch(r"[\w-]{20,128}", found.etag):
            return
        blob, part = self._part(found.etag).with_name(found.etag), self._part(found.etag)
        if blob.is_file() or (found.size or 0) > self.hub.constants.MAX_HTTP_DOWNLOAD_SIZE:
            return
        # A token is for the hub alone: files come from another host, by a signed address.
        if urlsplit(found.location).netloc == urlsplit(place).netloc:
            headers = self.hub.utils.build_hf_headers()
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("ab") as file, watched(part, name, found.size, self.progress):
                begun = file.tell()
                if found.size and begun > found.size:
                    file.truncate(begun := 0)
                self.hub.file_download.http_get(
                    found.location,
                    file,
                    resume_size=begun,
                    headers=headers,
                    expected_size=found.size,
                    displayed_filename=name,
                )
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if no_space(error):
                part.unlink(missing_ok=True)
            raise
        part.replace(blob)

    def expected_sum(self, name: str) -> str | None:
        """The sha256 that the hub itself gives for a large file."""
        found = self.sums.get(name, "")
        return found if _SHA256.fullmatch(found) else None

    def discard(self, name: str) -> Path:
        """Set a damaged file aside, so that nobody takes it for whole."""
        link = self.folder / name
        blob = link.resolve()
        aside = set_aside(blob)
        if link != blob:
            link.unlink(missing_ok=True)
        return aside

    @contextlib.contextmanager
    def _quiet(self):
        """The client's own bars stay away while somebody else draws some."""
        bars = self.hub.utils
        if self.progress is None or bars.are_progress_bars_disabled():
            yield
            return
        bars.disable_progress_bars()
        try:
            yield
        finally:
            bars.enable_progress_bars()

    def errors(self, file: str | None = None) -> contextlib.AbstractContextManager:
        """While the client works: its errors become ours."""
        return _Errors(self, file)


class _Errors:
    """Turns the client's errors into ours."""

    def __init__(self, source, file):
        self.source, self.file = source, file

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            return
        source, errors = self.source, self.source.hub.errors
        response = getattr(error, "response", None)
        if isinstance(error, errors.LocalEntryNotFoundError):
            error = error.__cause__ or error
            response = getattr(error, "response", None)
        if response is not None:
            gated = isinstance(error, errors.GatedRepoError)
            known = source.files if self.file else source.known
            wait = response.headers.get("Retry-After")
            raise refused(
                source.handle, response.status_code, source.card, self.file, gated, known, wait
            ) from None
        if isinstance(error, OSError) and no_space(error):
            return
        if isinstance(error, errors.FileMetadataError) or kind.__name__ == "JSONDecodeError":
            raise Unreachable(
                "the answer is not one of the hub's; a proxy, a sign-in page or HF_ENDPOINT may "
                "stand between"
            ) from error
        if isinstance(error, errors.HFValidationError):
            return
        if isinstance(error, OSError) or kind.__module__.split(".")[0] in ("httpx2", "httpx"):
            raise Unreachable(f"no connection: {kind.__name__}") from error
