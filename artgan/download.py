"""Downloads that resume where they broke off, and count only once they are verified.

<folder>/<name>         the file, only once it is whole and verified
<folder>/<name>.part    what has arrived so far; the next connection, or start, continues from there
"""

import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from artgan.errors import UserError
from artgan.files import byte_bar, cannot_write, hold, sha256

if TYPE_CHECKING:  # it is slow to import, and most files are there already
    import requests

ATTEMPTS = 5  # connections in a row that bring nothing new before it gives up
BACKOFF = 0.5  # seconds after a broken connection, doubled with each that brought nothing new
TIMEOUT = (10.0, 30.0)  # seconds to connect, and of silence afterwards
BLOCK = 2**18  # bytes
GIGABYTE = 10**9
LARGEST_WEIGHTS = 1  # gigabytes
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may pass


class WrongFile(Exception):
    """A file that is not the one expected; its text is the reason, for a person."""


@dataclass(frozen=True)
class Download:
    """A file on the web, and where it is saved."""

    url: str
    file: Path
    verify: Callable[[Path], str]  # returns the checksum of a file, or raises `WrongFile`
    otherwise: str  # if it is not available: what follows "Download it elsewhere and"
    largest: float  # gigabytes
    insecure: bool = False  # whether http:// is allowed


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors published it."""

    name: str
    url: str
    sha256: str  # 64 hexadecimal digits, or as many of the first as are published
    patterns: tuple[str, ...] = ()  # other names in a folder, such as `squeezenet1_0*.pth`

    def download(self, advice: str) -> Path:
        """The file in torch's hub folder, downloaded first if it is not there.

        Args:
            advice: what to do if it is not available, after "Download it elsewhere and".

        Raises:
            UserError: it cannot be downloaded or written, or is not the published file.
        """
        import torch  # not for archives of paintings, which are fetched before it is loaded

        path = Path(torch.hub.get_dir()) / "checkpoints" / self.name
        fetch(Download(self.url, path, self._verify, advice, LARGEST_WEIGHTS))
        return path

    def find(self, folder: Path) -> Path:
        """The file in a folder or below it, by its published name or another it is known by.

        Raises:
            UserError: there is no such folder, or no such file in it.
        """
        if not folder.is_dir():
            raise UserError(f"weights_dir: there is no folder {folder}.")
        for pattern in (self.name, *self.patterns):
            for path in sorted(folder.rglob(pattern)):
                if path.is_file():
                    return path
        raise UserError(
            f"weights_dir: there is no file {' or '.join((self.name, *self.patterns))} in {folder} "
            "or below it. Put it there, or leave weights_dir out to download it."
        )

    def _verify(self, path: Path) -> str:
        digest = sha256(path)
        if not digest.startswith(self.sha256):
            raise WrongFile(f"its SHA-256 is {digest:.8}…, expected {self.sha256:.8}…")
        return digest


def fetch(download: Download) -> str:
    """Downloads a file unless it is there, and verifies it.

    A file put there by hand is used like a downloaded one. A broken transfer resumes where it
    ended, also after the process was killed; of several processes, one downloads and the others
    wait.

    Returns:
        The checksum of the file, from `download.verify`.

    Raises:
        UserError: it cannot be downloaded or written, or is not the file expected.
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
            f"{file}: not the file expected: {wrong}{_hint(file)}. Remove it to download it again, "
            f"or put the file from {download.url} there."
        ) from wrong
    except OSError as error:
        raise cannot_write(file, error) from error


def _fetch(download: Download) -> str:
    part = download.file.with_name(f"{download.file.name}.part")
    resumed = part.exists()
    _transfer(download, part)
    try:
        checksum = download.verify(part)
    except WrongFile as wrong:
        reason = f"not the file expected: {wrong}{_hint(part)}"
        part.unlink()
        if resumed:
            # A power cut, or a newer file on the server, may have spoilt the part.
            return _fetch(download)
        _give_up(download, reason)
    with part.open("rb+") as content:
        os.fsync(content.fileno())
    part.replace(download.file)
    return checksum


def _transfer(download: Download, part: Path) -> None:
    """Downloads what the part lacks, over as many connections as it takes."""
    import requests
    import urllib3

    most, failures = _size(part), 0
    title = f"Downloading {download.file.name}"
    with byte_bar(title, initial=most) as bar, requests.Session() as session:
        if not download.insecure:
            session.mount("http://", _Unencrypted())  # type: ignore[arg-type]
        while True:
            try:
                return _resume(download, part, session, bar)
            except (
                *(_Refused, ConnectionResetError),
                *(requests.RequestException, urllib3.exceptions.HTTPError),
            ) as error:
                reason, final = _explain(error, begun=most > 0)
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if final or failures == ATTEMPTS:
                _give_up(download, reason)
            bar.set_postfix_str(f"{reason}; trying again")
            time.sleep(BACKOFF * 2**failures)
            bar.set_postfix_str("")


class _Refused(ValueError):
    """What trying again would not change."""


class _Unencrypted:
    """An adapter that refuses connections over http://, to which a redirect may lead, too."""

    def send(self, request: "requests.PreparedRequest", *_: Any, **__: Any) -> NoReturn:
        raise _Refused(f"{request.url} is not encrypted, so anyone on the way could change it")

    def close(self) -> None:
        pass


def _resume(
    download: Download, part: Path, session: "requests.Session", bar: "tqdm[NoReturn]"
) -> None:
    """One connection, from the end of the part to the end of the file."""
    size, largest = _size(part), download.largest * GIGABYTE
    headers = {"Accept-Encoding": "identity"}  # compressed, the ranges would be of other bytes
    if size:
        headers["Range"] = f"bytes={size}-"
    with session.get(download.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if size and response.status_code == 416:
            return  # there is no more: the part is whole or wrong, as its checksum will show
        response.raise_for_status()
        resumed = re.match(rf"bytes {size}-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not resumed:
            bar.update(-bar.n)
        length = resumed[1] if resumed else response.headers.get("Content-Length", "")
        bar.total = int(length) if length.isdecimal() else None
        if bar.total and bar.total > largest:
            raise _Refused(f"it has {bar.total / GIGABYTE:,.1f} GB, more than {download.largest:g}")
        with part.open("ab" if resumed else "wb") as out:
            # Not iter_content: when the connection breaks it loses what it holds of a block.
            while block := response.raw.read1(BLOCK, decode_content=False):
                if out.tell() + len(block) > largest:
                    out.truncate(0)
                    raise _Refused(f"it does not end after {download.largest:g} GB")
                out.write(block)
                bar.update(len(block))
    if bar.total and _size(part) < bar.total:
        raise ConnectionResetError("the server sent only a part")


def _explain(error: Exception, begun: bool) -> tuple[str, bool]:
    """What went wrong, in plain words, and whether trying again is of no use."""
    import requests

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
        f"{download.url}: cannot be downloaded ({reason}). Download it elsewhere and "
        f"{download.otherwise}."
    )


def _hint(file: Path) -> str:
    """Servers that want a login or a click often answer with a page instead of the file."""
    with file.open("rb") as content:
        return "; it looks like an HTML page" if b"<html" in content.read(512).lower() else ""


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


# Used for features and for style.
SQUEEZENET = Published(
    "squeezenet1_0-b66bff10.pth",
    "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
    "b66bff10",
    ("squeezenet1_0*.pth",),
)
