"""Download what a manifest's `download` lists: resumed where it was interrupted, verified, then unpacked safely."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kc import __version__
from kc.data.addresses import Archive
from kc.data.manifest import Manifest
from kc.data.unpack import free_bytes, unpack
from kc.errors import DataError
from kc.outside import inside

DOWNLOADS = ".kc-downloads"
"""Folder below the data root: archives while they are needed, and a mark for each that is unpacked."""

Progress = Callable[[str, int, int | None], None]
"""Called with (what is being done, bytes done, bytes in all or None)."""

_BLOCK, _TIMEOUT, _TRIES, _PAUSE = 1 << 18, 60.0, 5, 2.0


def fetch(manifest: Manifest, data_root: Path, *, keep: bool = False, progress: Progress | None = None) -> list[str]:
    """Bring every archive of `manifest.download` below `data_root`; returns the names of those that were new.

    An interrupted download goes on where it stopped; an archive that is unpacked already is not fetched again. `keep`:
    leave the archives in `data_root/.kc-downloads`.

    Raises:
        DataError: the manifest lists no download (says what to do instead), another process fetches it, too little
            space, an address that does not answer, another size or SHA-256 than the manifest's, an unsafe archive.
    """
    if not manifest.download:
        raise DataError(f"{manifest.name} cannot be fetched without a person: {manifest.obtain}")
    store = data_root / DOWNLOADS
    new = []
    try:
        store.mkdir(parents=True, exist_ok=True)
        with _alone(store / "lock"):
            for archive in manifest.download:
                name = archive.file_name
                mark = store / f"{name}.{archive.sha256[-16:]}.unpacked"
                if mark.exists():
                    continue
                path = _download(archive, store / name, progress)
                folder = inside(data_root, archive.into)
                unpack(path, folder, _step_of(progress, f"unpack {name}"))
                for inner in archive.inner:
                    packed = inside(folder, inner)
                    unpack(packed, packed.parent, _step_of(progress, f"unpack {packed.name}"))
                    packed.unlink()
                mark.touch()
                if not keep:
                    path.unlink()
                new.append(name)
    except OSError as error:
        raise DataError(f"cannot write below {data_root}: {error.strerror or error}") from error
    return new


def _download(archive: Archive, path: Path, progress: Progress | None) -> Path:
    """The verified archive at `path`."""
    if path.exists() and path.stat().st_size == archive.size and _sha256(path) == archive.sha256:
        return path
    part = path.with_name(f"{path.name}.part")
    start = part.stat().st_size if part.exists() else 0
    if archive.size - start > (free := free_bytes(path.parent)):
        raise DataError(f"{path.parent}: {archive.size - start:,} bytes are needed, {free:,} are free")
    resumed = start > 0
    _transfer(archive, part, progress)
    found = _sha256(part)
    if found != archive.sha256 and resumed:  # what was there may have been of another file
        part.unlink()
        _transfer(archive, part, progress)
        found = _sha256(part)
    if found != archive.sha256:
        part.unlink()
        raise DataError(
            f"{archive.url}: its checksum is {found}, the manifest says {archive.sha256}; the download was removed"
        )
    part.replace(path)
    return path


def _transfer(archive: Archive, part: Path, progress: Progress | None) -> None:
    """Fill `part` up to the archive's size, through broken connections as long as each brings something."""
    failures = restarts = 0
    while (have := part.stat().st_size if part.exists() else 0) != archive.size:
        if have > archive.size:
            part.unlink()
            continue
        reason = _once(archive, part, have, progress)
        now = part.stat().st_size if part.exists() else 0
        failures = failures + 1 if now <= have else 0
        restarts += now < have  # a file that is shorter than the manifest says would start over without an end
        if now < archive.size and (failures >= _TRIES or restarts > 1 or (reason is None and failures)):
            said = reason or f"the server's file ends at {now:,} bytes"
            raise DataError(
                f"{archive.url}: {said}; {now:,} of {archive.size:,} bytes are here. Run the command again to go on."
            )
        time.sleep(_PAUSE * failures)


def _once(archive: Archive, part: Path, have: int, progress: Progress | None) -> str | None:
    """One connection. Returns why it broke, None where it ended of itself.

    Raises DataError where another try cannot help: the server refuses, or sends more than the manifest says.
    """
    headers = {"User-Agent": f"kc/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with _opener().open(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT) as answer:
            goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            done = have if goes_on else 0
            with part.open("ab" if goes_on else "wb") as file:
                while block := answer.read(_BLOCK):
                    done += len(block)
                    if done > archive.size:
                        raise DataError(f"{archive.url}: sends more than the {archive.size:,} bytes of the manifest")
                    file.write(block)
                    if progress is not None:
                        progress(f"download {part.stem}", done, archive.size)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # it has no bytes from there on: what is here is not its beginning
            part.unlink(missing_ok=True)
            return f"the server answers {error.code} {error.reason}"
        if error.code < 500 and error.code != 429:
            raise DataError(f"{archive.url}: the server answers {error.code} {error.reason}") from error
        return f"the server answers {error.code} {error.reason}"
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
        return str(getattr(error, "reason", None) or error)
    return None


def _opener() -> urllib.request.OpenerDirector:
    """For http and https alone: a redirect to a file or another protocol ends in an error."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _step_of(progress: Progress | None, what: str) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(what, done, None)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Held by one process at a time; the lock ends with the process, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{path.parent}: another process is fetching into it; wait for it") from error
        except OSError as error:
            raise DataError(
                f"{path.parent}: no locks on this file system ({error.strerror}); choose another"
            ) from error
        yield  # the file stays: a lock that is deleted can be held by two
