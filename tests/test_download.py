import hashlib
import itertools
import random
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from artgan import download
from artgan.download import Download, WrongFile, fetch
from artgan.errors import UserError
from tests.helpers import ROOT

CONTENT = random.Random(0).randbytes(400_000)
HALF = 200_000
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"

Answer = Callable[[BaseHTTPRequestHandler], None]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def verify(file: Path) -> str:
    if (found := digest(file.read_bytes())) != digest(CONTENT):
        raise WrongFile(f"its SHA-256 is {found}, expected {digest(CONTENT)}")
    return found


def get(address: str, folder: Path, largest: float = 1, insecure: bool = True) -> Path:
    """Downloads CONTENT, by default from a server on this machine, without encryption."""
    file = folder / "data.zip"
    advice = f"put it at {file}"
    assert fetch(
        Download(f"{address}/data.zip", file, verify, advice, largest, insecure)
    ) == digest(CONTENT)
    return file


class Server:
    """A web server on this machine that answers by a script, whose last line is repeated."""

    def __init__(self) -> None:
        self.script: list[Answer] = [serving(CONTENT)]
        self.ranges: list[str | None] = []  # the Range that each request asked for
        self.paths: list[str] = []
        self.requested = threading.Event()
        self.release = threading.Event()  # lets `holding` send the rest
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers["Range"])
                outer.paths.append(self.path)
                outer.requested.set()
                outer.script[min(len(outer.ranges), len(outer.script)) - 1](self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def holding(self, content: bytes, after: int) -> Answer:
        """Sends that many bytes, and the rest only when released."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            headers(handler, 200, {"Content-Length": len(content)})
            handler.wfile.write(content[:after])
            handler.wfile.flush()
            self.release.wait()
            # The other end may be gone by now.
            try:
                handler.wfile.write(content[after:])
            except OSError:
                handler.close_connection = True

        return answer


def headers(handler: BaseHTTPRequestHandler, status: int, given: Mapping[str, object]) -> None:
    handler.send_response(status)
    for name, value in given.items():
        handler.send_header(name, str(value))
    handler.end_headers()


def serving(content: bytes, drop: int = 0, ranges: bool = True, lie: int = 0) -> Answer:
    """Serves content: all, or without its last bytes, ignoring Range, or with a wrong length."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"] if ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        length: dict[str, object] = {"Content-Length": len(content) - start + lie}
        if start >= len(content):
            headers(handler, 416, {"Content-Range": f"bytes */{len(content)}"})
            return
        if asked:
            place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            headers(handler, 206, length | place)
        else:
            headers(handler, 200, length)
        handler.wfile.write(content[start : len(content) - drop])

    return answer


def failing(status: int) -> Answer:
    return lambda handler: headers(handler, status, {"Content-Length": 0})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.release.set()
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "set"


def names(folder: Path) -> set[str]:
    """The files in a folder, without the locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def message(server: Server, folder: Path, **more: Any) -> str:
    with pytest.raises(UserError) as raised:
        get(server.address, folder, **more)
    return str(raised.value)


def process(server: Server, folder: Path) -> subprocess.Popen[str]:
    """Another process that downloads the same."""
    code = (
        "import sys; from pathlib import Path; from artgan.download import Download, fetch; "
        "fetch(Download(sys.argv[1] + '/data.zip', Path(sys.argv[2]) / 'data.zip', "
        "lambda file: '', '', largest=1, insecure=True))"
    )
    command = [sys.executable, "-c", code, server.address, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_file_is_downloaded_whole_and_verified(server: Server, folder: Path) -> None:
    assert get(server.address, folder).read_bytes() == CONTENT
    assert names(folder) == {"data.zip"}


def test_a_file_that_is_there_is_not_downloaded(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip").write_bytes(CONTENT)
    get(server.address, folder)
    assert server.paths == []


def test_a_wrong_file_put_there_by_hand_stays_and_is_named(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip").write_bytes(PAGE)
    text = message(server, folder)
    for part in (folder / "data.zip", digest(PAGE), digest(CONTENT), "HTML", server.address):
        assert str(part) in text
    assert (folder / "data.zip").read_bytes() == PAGE


def test_a_broken_transfer_resumes_where_it_ended(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF), serving(CONTENT)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_server_that_ignores_range_starts_again(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF), serving(CONTENT, ranges=False)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_attempts_that_make_progress_are_not_limited(server: Server, folder: Path) -> None:
    ends = range(1000, 1000 * 2 * download.ATTEMPTS, 1000)
    server.script = [serving(CONTENT, drop=len(CONTENT) - end) for end in ends] + [serving(CONTENT)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={end}-" for end in ends)]


def test_attempts_without_progress_are_limited(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF)]
    message(server, folder)
    assert len(server.ranges) == 1 + download.ATTEMPTS
    assert names(folder) == {"data.zip.part"}


def test_attempts_that_only_start_again_are_limited(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF, ranges=False)]
    message(server, folder)
    assert len(server.ranges) == 1 + download.ATTEMPTS


def test_what_a_killed_process_left_is_resumed(server: Server, folder: Path) -> None:
    server.script = [server.holding(CONTENT, after=HALF), serving(CONTENT)]
    part = folder / "data.zip.part"
    with process(server, folder) as victim:
        while not part.exists() or part.stat().st_size < HALF // 2:
            assert victim.poll() is None
            time.sleep(0.01)
        victim.kill()
    size = part.stat().st_size

    file = get(server.address, folder)

    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={size}-"]


def test_of_two_processes_one_downloads_and_the_other_waits(server: Server, folder: Path) -> None:
    server.script = [server.holding(CONTENT, after=HALF)]
    with process(server, folder) as one:
        server.requested.wait()
        with process(server, folder) as other:
            assert other.stderr
            assert "another process is preparing it; waiting" in other.stderr.readline()
            server.release.set()
            assert (one.wait(), other.wait()) == (0, 0)
    assert server.ranges == [None]
    assert (folder / "data.zip").read_bytes() == CONTENT


def test_a_part_of_another_file_is_downloaded_again(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(bytes(1000))
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_a_part_that_cannot_be_continued_is_verified(
    server: Server, folder: Path, content: bytes
) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(content)
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(content)}-", None][: 1 + (content != CONTENT)]


def test_an_announced_length_that_is_too_long_is_ignored(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, lie=100)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT


def test_an_announced_length_that_is_too_short_gives_no_file(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, lie=-100)]
    assert digest(CONTENT[:-100]) in message(server, folder)
    assert names(folder) == set()


def test_a_server_that_sends_only_pieces_is_asked_for_the_next(
    server: Server, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(CONTENT[:1000])

    def piece(handler: BaseHTTPRequestHandler) -> None:
        place = f"bytes 1000-1999/{len(CONTENT)}"
        headers(handler, 206, {"Content-Length": 1000, "Content-Range": place})
        handler.wfile.write(CONTENT[1000:2000])

    server.script = [piece, serving(CONTENT)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", "bytes=2000-"]


def test_a_page_instead_of_the_file_is_recognised_and_removed(server: Server, folder: Path) -> None:
    server.script = [serving(PAGE)]
    text = message(server, folder)
    for part in (f"{server.address}/data.zip", digest(PAGE), digest(CONTENT), "HTML page"):
        assert part in text
    assert names(folder) == set()


def test_a_transfer_that_falls_silent_is_resumed(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (0.2, 0.2))
    server.script = [server.holding(CONTENT, after=HALF), serving(CONTENT)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_silent_server_is_an_error(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (0.1, 0.1))

    def silent(_: BaseHTTPRequestHandler) -> None:
        server.release.wait()

    server.script = [silent]
    assert "timed out" in message(server, folder)
    assert len(server.ranges) == download.ATTEMPTS


def test_a_redirect_is_followed_with_the_same_range(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(CONTENT[:1000])
    there = {"Location": f"{server.address}/elsewhere", "Content-Length": 0}
    server.script = [lambda handler: headers(handler, 302, there), serving(CONTENT)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT
    assert server.paths == ["/data.zip", "/elsewhere"]
    assert server.ranges == ["bytes=1000-"] * 2


def test_redirects_in_a_circle_are_an_error_at_once(server: Server, folder: Path) -> None:
    there = {"Location": f"{server.address}/data.zip", "Content-Length": 0}
    server.script = [lambda handler: headers(handler, 302, there)]
    assert "redirects" in message(server, folder)
    assert len(server.paths) < 40


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(server: Server, folder: Path, status: int) -> None:
    server.script = [failing(status)]
    assert str(status) in message(server, folder)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(server: Server, folder: Path, status: int) -> None:
    server.script = [failing(status), failing(status), serving(CONTENT)]
    file = get(server.address, folder)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("http://nowhere.invalid", "is there a network?"),
        ("nowhere", "Invalid URL"),
        ("ftp://127.0.0.1", "ftp"),
        ("http://[", "not a valid host"),
    ],
)
def test_without_a_connection_the_message_says_what_to_do(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.address = address
    text = message(server, folder)
    for part in (f"{address}/data.zip", reason, f"put it at {folder / 'data.zip'}"):
        assert part in text
    assert names(folder) == set()


def test_a_full_disk_is_one_message_and_the_part_stays(
    server: Server, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("256k")
    assert "the disk is full" in message(server, disk)
    assert names(disk) == {"data.zip.part"}
    assert len(server.ranges) == 1


def test_no_room_for_the_part_is_one_message(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").symlink_to("/dev/full")
    assert "the disk is full" in message(server, folder)


def test_a_folder_that_cannot_be_made_is_one_message(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in message(server, tmp_path / "file")


@pytest.fixture
def encrypted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The same server behind TLS, with a certificate that requests trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl to make a certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    other = Server()
    other.http.socket = context.wrap_socket(other.http.socket, server_side=True)
    other.address = f"https://127.0.0.1:{other.http.server_port}"
    thread = threading.Thread(target=other.http.serve_forever, args=(0.01,))
    thread.start()
    yield other
    other.http.shutdown()
    thread.join()
    other.http.server_close()


def redirecting(address: str) -> Answer:
    there = {"Location": f"{address}/elsewhere.zip", "Content-Length": 0}
    return lambda handler: headers(handler, 302, there)


def test_over_https_redirects_to_https_are_followed(encrypted: Server, folder: Path) -> None:
    encrypted.script = [redirecting(encrypted.address), serving(CONTENT)]
    file = get(encrypted.address, folder, insecure=False)
    assert file.read_bytes() == CONTENT
    assert encrypted.paths == ["/data.zip", "/elsewhere.zip"]


def test_a_redirect_that_leaves_https_is_not_followed(
    server: Server, encrypted: Server, folder: Path
) -> None:
    encrypted.script = [redirecting(server.address)]
    text = message(encrypted, folder, insecure=False)
    assert f"cannot be downloaded ({server.address}/elsewhere.zip is not encrypted" in text
    assert encrypted.paths == ["/data.zip"]
    assert server.paths == []
    file = get(encrypted.address, folder, insecure=True)
    assert file.read_bytes() == CONTENT


def test_an_untrusted_certificate_is_refused(
    encrypted: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    assert "certificate verify failed" in message(encrypted, folder, insecure=False)
    assert encrypted.paths == []


def test_without_encryption_nothing_is_requested(server: Server, folder: Path) -> None:
    text = message(server, folder, insecure=False)
    assert f"({server.address}/data.zip is not encrypted" in text
    assert server.paths == []


def test_a_file_announced_as_too_large_is_not_downloaded(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, lie=3 * 10**9)]
    assert "it has 3.0 GB, more than 1" in message(server, folder)
    assert names(folder) == set()
    assert len(server.ranges) == 1


@pytest.mark.parametrize("piecewise", [False, True])
def test_a_server_that_sends_without_end_does_not_fill_the_disk(
    server: Server, folder: Path, piecewise: bool
) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        headers(handler, 200, {})
        try:
            for _ in itertools.repeat(None, 2 if piecewise else 10_000):
                handler.wfile.write(CONTENT)
        except OSError:
            handler.close_connection = True

    def continued(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        place = f"bytes {start}-{start + len(CONTENT) - 1}/{start + 2 * len(CONTENT)}"
        headers(handler, 206, {"Content-Length": len(CONTENT), "Content-Range": place})
        handler.wfile.write(CONTENT)

    server.script = [endless]
    if piecewise:
        folder.mkdir(parents=True)
        (folder / "data.zip.part").write_bytes(CONTENT)
        server.script = [continued]
    text = message(server, folder, largest=0.01)
    assert "more than 0.01" in text or "does not end after 0.01 GB" in text
    assert len(server.ranges) < 30
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10**7
