"""Fetching archives over HTTP: what has come stays whatever breaks, and only right bytes count.

<folder>/<name>         the archive, only once it is whole and verified
<folder>/<name>.part    what has come so far; the next connection, or start, goes on from there
"""

import hashlib
import os
import re
import socket
import time
from http.client import responses
from pathlib import Path
from typing import NoReturn

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from artgan.data.archive import UnusableArchive, byte_bar, check_archive
from artgan.errors import UserError
from artgan.files import cannot_write

ATTEMPTS = 5  # connections in a row that bring nothing new, before it is given up
BACKOFF = 0.5  # seconds after a broken connection, doubled with each that brought nothing new
TIMEOUT = (10.0, 30.0)  # seconds until connected, and of silence afterwards
BLOCK = 2**18  # bytes
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that may be other ones a little later

ENTRY = re.compile(r"(?:([0-9a-fA-F]{40})\s+)?([^\s/\\:][^\s\\:]*\.zip)")


def fetch_archives(address: str, archives: list[str], folder: Path) -> dict[Path, str]:
    """Fetches archives that do not lie in a folder yet, and verifies all of them.

    Files put there by hand are used like those fetched. A broken transfer goes on where it ended,
    also after the process was killed; of several processes, one fetches and the others wait.

    Args:
        address: folder on the web that the archives lie below.
        archives: each as "git-blob-SHA-1 name", or as "name" where no sum is published. A name may
            hold folders, which are made below `folder`.
        folder: where the archives come to lie.

    Returns:
        The file of each archive, in order, with its sum as `git-blob-sha1:…`, or as `sha256:…`
        where none is published; the pictures of such an archive have been read through.

    Raises:
        UserError: an archive cannot be fetched or written, or is not the one expected.

    Example:
        >>> fetch_archives("https://example.org/sets", ["monet.zip"], Path("datasets/downloads"))
        {PosixPath('datasets/downloads/monet.zip'): 'sha256:…'}
    """
    fetched = {}
    for entry in archives:
        match = ENTRY.fullmatch(entry)
        if not match or ".." in match[2].split("/"):
            raise UserError(
                f"dataset.archives: {entry!r} is neither NAME.zip nor 'GIT_BLOB_SHA1 NAME.zip'."
            )
        file = folder / match[2]
        try:
            fetched[file] = _present(f"{address.rstrip('/')}/{match[2]}", file, match[1])
        except OSError as error:
            raise cannot_write(file, error) from error
    return fetched


def _present(url: str, file: Path, published: str | None) -> str:
    """The sum of the file, which is fetched first where it does not lie there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            if not file.exists():
                return _fetch(url, file, published)
    try:
        return _verify(file, published)
    except UnusableArchive as wrong:
        raise UserError(
            f"{file}: not the file expected: {wrong}{_hint(file)}. Remove it to have it fetched, "
            f"or put there what lies at {url}."
        ) from wrong


def _fetch(url: str, file: Path, published: str | None) -> str:
    part = file.with_name(f"{file.name}.part")
    found = part.exists()
    _transfer(url, file, part)
    try:
        checksum = _verify(part, published)
    except UnusableArchive as wrong:
        reason = f"what comes is not the file expected: {wrong}{_hint(part)}"
        part.unlink()
        if found:
            # A power cut, or a newer file on the server, may have spoilt what was found.
            return _fetch(url, file, published)
        _give_up(url, file, reason)
    with part.open("rb+") as content:
        os.fsync(content.fileno())
    part.replace(file)
    return checksum


def _transfer(url: str, file: Path, part: Path) -> None:
    """Fetches what the part lacks, over as many connections as it takes."""
    most, failures = _size(part), 0
    with byte_bar(f"Fetching {file.name}", initial=most) as bar:
        while True:
            try:
                return _continue(url, part, bar)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason, final = _explain(error)
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if final or failures == ATTEMPTS:
                _give_up(url, file, reason)
            bar.set_postfix_str(f"{reason}; trying again")
            time.sleep(BACKOFF * 2**failures)
            bar.set_postfix_str("")


def _continue(url: str, part: Path, bar: "tqdm[NoReturn]") -> None:
    """One connection, from the end of the part to the end of the file."""
    size = _size(part)
    headers = {"Accept-Encoding": "identity"}  # compressed, the ranges would be of other bytes
    if size:
        headers["Range"] = f"bytes={size}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if size and response.status_code == 416:
            return  # nothing lies beyond: the part is whole or wrong, which its sum tells
        response.raise_for_status()
        continued = re.match(rf"bytes {size}-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not continued:
            bar.update(-bar.n)
        length = continued[1] if continued else response.headers.get("Content-Length", "")
        bar.total = int(length) if length.isdecimal() else None
        with part.open("ab" if continued else "wb") as out:
            # Not iter_content: when the connection breaks it loses what it holds of a block.
            while block := response.raw.read1(BLOCK, decode_content=False):
                out.write(block)
                bar.update(len(block))
    if bar.total and _size(part) < bar.total:
        raise requests.ConnectionError("the server sent only a piece")


def _explain(error: Exception) -> tuple[str, bool]:
    """What went wrong, in plain words, and whether trying again is of no use."""
    if isinstance(error, requests.HTTPError):
        code = error.response.status_code
        return f"the server answers {code} {responses.get(code, '')}", code not in PASSING
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, socket.gaierror):
        return "the server's name is not found; is there a network?", False
    reason = str(getattr(cause, "strerror", None) or cause)
    return reason, isinstance(error, ValueError | requests.TooManyRedirects)


def _give_up(url: str, file: Path, reason: str) -> NoReturn:
    raise UserError(
        f"{url}: cannot be fetched ({reason}). Fetch it elsewhere and put it at {file}, or give a "
        "folder of paintings by dataset=folder dataset.root=PATH."
    )


def _verify(file: Path, published: str | None) -> str:
    """The sum of a file that is the one published or, if none is, of a whole zip of pictures."""
    if published is None:
        check_archive(file)
        with file.open("rb") as content:
            return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
    header = b"blob %d\0" % _size(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.sha1(header, usedforsecurity=False))
    checksum = digest.hexdigest()
    if checksum != published.lower():
        raise UnusableArchive(f"its git blob SHA-1 is {checksum}, expected {published}")
    return f"git-blob-sha1:{checksum}"


def _hint(file: Path) -> str:
    """Servers that want a login or a click often answer a page instead of the file."""
    with file.open("rb") as content:
        return "; it looks like an HTML page" if b"<html" in content.read(512).lower() else ""


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
