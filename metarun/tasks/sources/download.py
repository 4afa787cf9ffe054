"""Downloading one file: resumed where it broke off, checked before it gets its name, one process at a time."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarun.tasks.packed_file import exclusive
from metarun.tasks.sources.archives import is_web_page, kilobytes, md5_of
from metarun.tasks.sources.catalogue import Archive

_BLOCK = 2**16  # what may be lost when the connection breaks off
_ATTEMPTS = 5
_TIMEOUT_S = (10, 60)  # to connect; without a byte


class DownloadError(OSError):
    """A file could not be had; `str()` says why and what can be done by hand."""


def download(
    archive: Archive,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    wait_s: float = 2.0,
    timeout_s: tuple[float, float] = _TIMEOUT_S,
) -> Path:
    """`archive` as a file in `folder`.

    What has arrived lies in `<name>.part`, and the next call, of this process or another, goes on from there. A second
    process waits for the first and uses its file.

    Args:
        archive: what to get.
        folder: where to; made if need be.
        progress: called with (bytes, bytes in all or 0 where the server does not say).
        wait_s: before the second attempt; doubled for each further one that brings nothing.
        timeout_s: to connect, and between two bytes.
    Returns:
        The file's path.
    Raises:
        DownloadError: no connection, an answer such as 404, a web page or other bytes than the official ones.
        OSError: the folder cannot be written or is full.
    """
    path = folder / archive.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DownloadError(
            f"the data folder {folder} must be one that can be written: {error.strerror}. "
            "Set data.root or METARUN_DATA to a folder of yours."
        ) from error
    with exclusive(path):
        if path.is_file():
            return path
        partial = path.with_name(f"{path.name}.part")
        got = partial.stat().st_size if partial.is_file() else 0
        attempt = 0
        while (reason := _fetch(archive, partial, progress, timeout_s)) is not None:
            have = partial.stat().st_size if partial.is_file() else 0
            attempt = 1 if have > got else attempt + 1
            got = have
            if attempt == _ATTEMPTS:
                kept = f" {have:,} bytes are kept in {partial}, and the next try goes on from there." if have else ""
                raise DownloadError(_by_hand(archive, f"in {_ATTEMPTS} attempts {reason}") + kept)
            time.sleep(wait_s * 2 ** (attempt - 1))
        _check(archive, partial)
        os.replace(partial, path)
    return path


def _fetch(
    archive: Archive, partial: Path, progress: Callable[[int, int], None] | None, timeout_s: tuple[float, float]
) -> str | None:
    """One attempt, from where the last broke off; what came between, or None if the file is whole."""
    import requests

    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    try:
        with requests.get(archive.address, headers=headers, stream=True, timeout=timeout_s) as answer:
            if answer.status_code == 416:  # nothing is left to send
                return None
            if answer.status_code >= 500 or answer.status_code == 429:
                return f"the server answered {answer.status_code} {answer.reason}"
            if answer.status_code not in (200, 206):
                raise DownloadError(_by_hand(archive, f"the server answered {answer.status_code} {answer.reason}"))
            if answer.status_code == 200:
                have = 0  # it does not resume, and sends everything
            total = have + int(answer.headers.get("Content-Length") or 0)
            _check_space(partial.parent, total - have)
            return _receive(answer, partial, have, total, progress)
    except requests.RequestException as error:  # an OSError too, and the one that is not the disk's
        if "Name or service not known" in str(error) or "Temporary failure in name resolution" in str(error):
            raise DownloadError(_by_hand(archive, "there is no network here")) from error
        return _words(error)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{partial} cannot be written: {error.strerror or error}. What has arrived is kept for the next try. "
            "Make room there, or set data.root or METARUN_DATA to another folder."
        ) from error


def _receive(
    answer: Any, partial: Path, have: int, total: int, progress: Callable[[int, int], None] | None
) -> str | None:
    with open(partial, "ab" if have else "wb") as file:
        for block in answer.iter_content(_BLOCK):
            file.write(block)
            have += len(block)
            if progress is not None:
                progress(have, total)
        file.flush()
        os.fsync(file.fileno())
    is_short = bool(answer.headers.get("Content-Length")) and have < total
    return f"the connection ended after {have:,} of {total:,} bytes" if is_short else None


def _check(archive: Archive, partial: Path) -> None:
    """Take what is not the official file away, and say what it is."""
    if is_web_page(partial):
        reason = f"the answer is an HTML page of {kilobytes(partial)}: the download was refused"
    elif archive.md5 is not None and (found := md5_of(partial)) != archive.md5:
        reason = (
            f"the {partial.stat().st_size:,} bytes that came have MD5 {found}, and the official file has {archive.md5}"
        )
    else:
        return
    partial.unlink()
    raise DownloadError(_by_hand(archive, reason))


def _by_hand(archive: Archive, reason: str) -> str:
    return (
        f"{archive.name} could not be downloaded: {reason}. "
        f"Get it by hand, from {archive.address} or another mirror, and put it into the data folder."
    )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"{folder} has {free / 2**20:,.0f} MiB free, and {needed / 2**20:,.0f} MiB are to be downloaded. "
            "Set data.root or METARUN_DATA to a folder with more room."
        )


def _words(error: Exception) -> str:
    text = str(error)
    if "Connection refused" in text:
        return "the connection was refused"
    if "timed out" in text:
        return "the server did not answer in time"
    if "IncompleteRead" in text or "Connection broken" in text or "reset by peer" in text:
        return "the connection broke off"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
