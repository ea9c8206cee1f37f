"""Fetching files over HTTPS: what has come stays whatever breaks, and only right bytes count.

<folder>/<name>         the file, only once it is whole and verified
<folder>/<name>.part    what has come so far; the next connection, or start, goes on from there
"""

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import responses
from pathlib import Path
from typing import Any, NoReturn

import requests
import urllib3
from tqdm import tqdm

from artgan.data.archive import UnusableArchive, byte_bar, check_archive
from artgan.errors import UserError
from artgan.files import cannot_write, hold

ATTEMPTS = 5  # connections in a row that bring nothing new, before it is given up
BACKOFF = 0.5  # seconds after a broken connection, doubled with each that brought nothing new
TIMEOUT = (10.0, 30.0)  # seconds until connected, and of silence afterwards
BLOCK = 2**18  # bytes
GIGABYTE = 10**9
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that may be other ones a little later

ENTRY = re.compile(r"(?:([0-9a-fA-F]{40})\s+)?([^\s/\\:][^\s\\:]*\.zip)")


class WrongFile(Exception):
    """A file that is not the one expected; its text is the reason, for a person."""


@dataclass(frozen=True)
class Download:
    """A file on the web, and where it comes to lie.

    Attributes:
        url: of the file.
        file: where it comes to lie.
        verify: gives the sum of a file, or raises `WrongFile`.
        otherwise: what to do where it cannot be had, after "Fetch it elsewhere and".
        largest: gigabytes that it has at most, or it is given up.
        insecure: whether http:// may be used in place of https://.
    """

    url: str
    file: Path
    verify: Callable[[Path], str]
    otherwise: str
    largest: float
    insecure: bool = False


def fetch_archives(
    address: str, archives: list[str], folder: Path, largest: float, insecure: bool = False
) -> dict[Path, str]:
    """Fetches archives that do not lie in a folder yet, as `fetch` does, and verifies all of them.

    Args:
        address: folder on the web that the archives lie below.
        archives: each as "git-blob-SHA-1 name", or as "name" where no sum is published. A name may
            hold folders, which are made below `folder`.
        folder: where the archives come to lie.
        largest: gigabytes that each has at most.
        insecure: whether http:// may be used in place of https://.

    Returns:
        The file of each archive, in order, with its sum as `git-blob-sha1:…`, or as `sha256:…`
        where none is published; the pictures of such an archive have been read through.

    Raises:
        UserError: an archive cannot be fetched or written, or is not the one expected.

    Example:
        >>> fetch_archives("https://example.org/sets", ["monet.zip"], Path("datasets"), largest=20)
        {PosixPath('datasets/monet.zip'): 'sha256:…'}
    """
    fetched = {}
    for entry in archives:
        match = ENTRY.fullmatch(entry)
        if not match or ".." in match[2].split("/"):
            raise UserError(
                f"dataset.archives: {entry!r} is neither NAME.zip nor 'GIT_BLOB_SHA1 NAME.zip'."
            )
        file = folder / match[2]
        download = Download(
            f"{address.rstrip('/')}/{match[2]}",
            file,
            partial(_verify, published=match[1]),
            f"put it at {file}, or give a folder of paintings by dataset=folder dataset.root=PATH",
            largest,
            insecure,
        )
        fetched[file] = fetch(download)
    return fetched


def fetch(download: Download) -> str:
    """Fetches a file that does not lie there yet, and verifies it.

    A file put there by hand is used like one that was fetched. A broken transfer goes on where it
    ended, also after the process was killed; of several processes, one fetches and the others
    wait.

    Returns:
        The sum of the file, as `download.verify` gives it.

    Raises:
        UserError: it cannot be fetched or written, or is not the file expected.
    """
    file = download.file
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with hold(file.with_name(f".{file.name}.lock"), file):
                if not file.exists():
                    return _fetch(download)
        return download.verify(file)
    except WrongFile as wrong:
        raise UserError(
            f"{file}: not the file expected: {wrong}{_hint(file)}. Remove it to have it fetched, "
            f"or put there what lies at {download.url}."
        ) from wrong
    except OSError as error:
        raise cannot_write(file, error) from error


def _fetch(download: Download) -> str:
    part = download.file.with_name(f"{download.file.name}.part")
    found = part.exists()
    _transfer(download, part)
    try:
        checksum = download.verify(part)
    except WrongFile as wrong:
        reason = f"what comes is not the file expected: {wrong}{_hint(part)}"
        part.unlink()
        if found:
            # A power cut, or a newer file on the server, may have spoilt what was found.
            return _fetch(download)
        _give_up(download, reason)
    with part.open("rb+") as content:
        os.fsync(content.fileno())
    part.replace(download.file)
    return checksum


def _transfer(download: Download, part: Path) -> None:
    """Fetches what the part lacks, over as many connections as it takes."""
    most, failures = _size(part), 0
    title = f"Fetching {download.file.name}"
    with byte_bar(title, initial=most) as bar, requests.Session() as session:
        if not download.insecure:
            session.mount("http://", _Unencrypted())
        while True:
            try:
                return _continue(download, part, session, bar)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason, final = _explain(error, begun=most > 0)
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if final or failures == ATTEMPTS:
                _give_up(download, reason)
            bar.set_postfix_str(f"{reason}; trying again")
            time.sleep(BACKOFF * 2**failures)
            bar.set_postfix_str("")


class _Refused(requests.RequestException, ValueError):
    """What trying again would not change."""


class _Unencrypted(requests.adapters.BaseAdapter):
    """Stands where a connection over http:// would be made, to which a redirect may lead, too."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> NoReturn:
        raise _Refused(f"{request.url} is not encrypted, so anyone on the way could change it")

    def close(self) -> None:
        pass


def _continue(
    download: Download, part: Path, session: requests.Session, bar: "tqdm[NoReturn]"
) -> None:
    """One connection, from the end of the part to the end of the file."""
    size, largest = _size(part), download.largest * GIGABYTE
    headers = {"Accept-Encoding": "identity"}  # compressed, the ranges would be of other bytes
    if size:
        headers["Range"] = f"bytes={size}-"
    with session.get(download.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if size and response.status_code == 416:
            return  # nothing lies beyond: the part is whole or wrong, which its sum tells
        response.raise_for_status()
        continued = re.match(rf"bytes {size}-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not continued:
            bar.update(-bar.n)
        length = continued[1] if continued else response.headers.get("Content-Length", "")
        bar.total = int(length) if length.isdecimal() else None
        if bar.total and bar.total > largest:
            raise _Refused(f"it has {bar.total / GIGABYTE:,.1f} GB, {_most(download)}")
        with part.open("ab" if continued else "wb") as out:
            # Not iter_content: when the connection breaks it loses what it holds of a block.
            while block := response.raw.read1(BLOCK, decode_content=False):
                if out.tell() + len(block) > largest:
                    out.truncate(0)
                    raise _Refused(f"it does not end, {_most(download)}")
                out.write(block)
                bar.update(len(block))
    if bar.total and _size(part) < bar.total:
        raise requests.ConnectionError("the server sent only a piece")


def _most(download: Download) -> str:
    return f"and at most {download.largest:g} GB are taken"


def _explain(error: Exception, begun: bool) -> tuple[str, bool]:
    """What went wrong, in plain words, and whether trying again is of no use."""
    if isinstance(error, requests.HTTPError):
        code = error.response.status_code
        return f"the server answers {code} {responses.get(code, '')}", code not in PASSING
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, socket.gaierror):
        return "the server's name is not found; is there a network?", not begun
    reason = str(getattr(cause, "strerror", None) or cause)
    return reason, isinstance(error, ValueError | requests.TooManyRedirects)


def _give_up(download: Download, reason: str) -> NoReturn:
    raise UserError(
        f"{download.url}: cannot be fetched ({reason}). Fetch it elsewhere and "
        f"{download.otherwise}."
    )


def _verify(file: Path, published: str | None) -> str:
    """The sum of a file that is the one published or, if none is, of a whole zip of pictures."""
    if published is None:
        try:
            check_archive(file)
        except UnusableArchive as error:
            raise WrongFile(str(error)) from error
        with file.open("rb") as content:
            return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
    header = b"blob %d\0" % _size(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.sha1(header, usedforsecurity=False))
    checksum = digest.hexdigest()
    if checksum != published.lower():
        raise WrongFile(f"its git blob SHA-1 is {checksum}, expected {published}")
    return f"git-blob-sha1:{checksum}"


def _hint(file: Path) -> str:
    """Servers that want a login or a click often answer a page instead of the file."""
    with file.open("rb") as content:
        return "; it looks like an HTML page" if b"<html" in content.read(512).lower() else ""


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
