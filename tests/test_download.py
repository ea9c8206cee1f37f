import hashlib
import io
import itertools
import random
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from artgan import download as fetch
from artgan.errors import UserError
from tests.helpers import ROOT

CONTENT = random.Random(0).randbytes(400_000)
HALF = 200_000
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"

Answer = Callable[[BaseHTTPRequestHandler], None]


def fetch_archives(
    address: str, archives: list[str], folder: Path, largest: float = 1, insecure: bool = True
) -> dict[Path, str]:
    """From a server on this machine, to which connections are not encrypted."""
    return fetch.fetch_archives(address, archives, folder, largest, insecure)


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ENTRY = f"{git_blob(CONTENT)} data.zip"


class Server:
    """A web server on this machine that answers by a script; the last line of it is repeated."""

    def __init__(self) -> None:
        self.script: list[Answer] = [serving(CONTENT)]
        self.ranges: list[str | None] = []  # the Range that each request asked for
        self.paths: list[str] = []
        self.release = threading.Event()  # what answers that hold back wait for
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers["Range"])
                outer.paths.append(self.path)
                outer.script[min(len(outer.ranges), len(outer.script)) - 1](self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def holding(self, content: bytes, after: int) -> Answer:
        """Sends so many bytes, and the rest only when released."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            headers(handler, 200, {"Content-Length": len(content)})
            handler.wfile.write(content[:after])
            handler.wfile.flush()
            self.release.wait(20)
            # The other end may be gone by now, which is what most of the tests want.
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
    """Serves content: without its last bytes, deaf to Range, or with a wrong length, if so told."""

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


def zipped(**content: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, picture in content.items():
            archive.writestr(f"{name}.jpg", picture)
    return memory.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF", 0.0)
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
    """What lies in a folder, but for the locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def message(server: Server, folder: Path, *entries: str, **more: Any) -> str:
    with pytest.raises(UserError) as raised:
        fetch_archives(server.address, list(entries), folder, **more)
    return str(raised.value)


def process(server: Server, folder: Path) -> subprocess.Popen[str]:
    """Another process that says when it begins to fetch."""
    code = (
        "import sys; from pathlib import Path; from artgan.download import fetch_archives; "
        "print('ready', flush=True); "
        "fetch_archives(sys.argv[1], [sys.argv[2]], Path(sys.argv[3]), largest=1, insecure=True)"
    )
    command = [sys.executable, "-c", code, server.address, ENTRY, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_an_archive_comes_whole_and_with_its_published_sum(server: Server, folder: Path) -> None:
    fetched = fetch_archives(server.address + "/", [ENTRY], folder)
    assert fetched == {folder / "data.zip": f"git-blob-sha1:{git_blob(CONTENT)}"}
    assert (folder / "data.zip").read_bytes() == CONTENT
    assert names(folder) == {"data.zip"}


def test_folders_in_a_name_are_kept(server: Server, folder: Path) -> None:
    fetched = fetch_archives(server.address, [f"{git_blob(CONTENT)} Met/Met-1.zip"], folder)
    assert list(fetched) == [folder / "Met" / "Met-1.zip"]
    assert server.paths == ["/Met/Met-1.zip"]


@pytest.mark.parametrize(
    "name", ["../x.zip", "a/../../x.zip", "/x.zip", r"a\x.zip", "C:x.zip", "x"]
)
def test_a_name_that_leads_elsewhere_is_refused(server: Server, folder: Path, name: str) -> None:
    assert message(server, folder, name).startswith(f"dataset.archives: {name!r}")
    assert server.paths == []


def test_a_file_that_lies_there_is_not_fetched(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip").write_bytes(CONTENT)
    fetch_archives(server.address, [ENTRY], folder)
    assert server.paths == []


def test_a_wrong_file_put_there_by_hand_stays_and_is_named(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip").write_bytes(PAGE)
    said = message(server, folder, ENTRY)
    for part in (folder / "data.zip", git_blob(PAGE), git_blob(CONTENT), "HTML", server.address):
        assert str(part) in said
    assert (folder / "data.zip").read_bytes() == PAGE


def test_a_broken_transfer_goes_on_where_it_ended(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF), serving(CONTENT)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_server_that_ignores_range_begins_anew(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF), serving(CONTENT, ranges=False)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_progress_in_each_attempt_needs_no_end_of_attempts(server: Server, folder: Path) -> None:
    ends = range(1000, 1000 * 2 * fetch.ATTEMPTS, 1000)
    server.script = [serving(CONTENT, drop=len(CONTENT) - end) for end in ends] + [serving(CONTENT)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={end}-" for end in ends)]


def test_attempts_that_bring_nothing_new_come_to_an_end(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF)]
    message(server, folder, ENTRY)
    assert len(server.ranges) == 1 + fetch.ATTEMPTS
    assert names(folder) == {"data.zip.part"}


def test_attempts_that_only_begin_anew_come_to_an_end(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, drop=HALF, ranges=False)]
    message(server, folder, ENTRY)
    assert len(server.ranges) == 1 + fetch.ATTEMPTS


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(
    server: Server, folder: Path
) -> None:
    server.script = [server.holding(CONTENT, after=HALF), serving(CONTENT)]
    part = folder / "data.zip.part"
    with process(server, folder) as victim:
        deadline = time.monotonic() + 20
        while not part.exists() or part.stat().st_size < HALF // 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        victim.kill()
    size = part.stat().st_size

    [file] = fetch_archives(server.address, [ENTRY], folder)

    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={size}-"]


def test_of_two_processes_one_fetches_and_the_other_waits(server: Server, folder: Path) -> None:
    server.script = [server.holding(CONTENT, after=HALF)]
    with process(server, folder) as one, process(server, folder) as other:
        for each in (one, other):
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        # Long enough for a second request, if there were no lock.
        time.sleep(0.3)
        server.release.set()
        assert (one.wait(20), other.wait(20)) == (0, 0)
    assert server.ranges == [None]
    assert (folder / "data.zip").read_bytes() == CONTENT


def test_a_part_of_another_file_is_fetched_anew(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(bytes(1000))
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_a_part_with_nothing_behind_it_is_judged_by_its_sum(
    server: Server, folder: Path, content: bytes
) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(content)
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(content)}-", None][: 1 + (content != CONTENT)]


def test_a_length_announced_too_long_is_no_obstacle(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, lie=100)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT


def test_a_length_announced_too_short_gives_no_file(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, lie=-100)]
    assert git_blob(CONTENT[:-100]) in message(server, folder, ENTRY)
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
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", "bytes=2000-"]


def test_a_page_instead_of_the_file_is_recognised_and_removed(server: Server, folder: Path) -> None:
    server.script = [serving(PAGE)]
    said = message(server, folder, ENTRY)
    for part in (f"{server.address}/data.zip", git_blob(PAGE), git_blob(CONTENT), "HTML page"):
        assert part in said
    assert names(folder) == set()


def test_silence_in_mid_transfer_is_not_waited_for(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", (0.2, 0.2))
    server.script = [server.holding(CONTENT, after=HALF), serving(CONTENT)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_silent_server_is_given_up(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", (0.1, 0.1))

    def silent(_: BaseHTTPRequestHandler) -> None:
        server.release.wait(20)

    server.script = [silent]
    assert "timed out" in message(server, folder, ENTRY)
    assert len(server.ranges) == fetch.ATTEMPTS


def test_a_redirect_is_followed_and_the_range_with_it(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").write_bytes(CONTENT[:1000])
    there = {"Location": f"{server.address}/elsewhere", "Content-Length": 0}
    server.script = [lambda handler: headers(handler, 302, there), serving(CONTENT)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
    assert file.read_bytes() == CONTENT
    assert server.paths == ["/data.zip", "/elsewhere"]
    assert server.ranges == ["bytes=1000-"] * 2


def test_redirects_in_a_circle_are_given_up_at_once(server: Server, folder: Path) -> None:
    there = {"Location": f"{server.address}/data.zip", "Content-Length": 0}
    server.script = [lambda handler: headers(handler, 302, there)]
    assert "redirects" in message(server, folder, ENTRY)
    assert len(server.paths) < 40


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(server: Server, folder: Path, status: int) -> None:
    server.script = [failing(status)]
    assert str(status) in message(server, folder, ENTRY)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_asked_again(server: Server, folder: Path, status: int) -> None:
    server.script = [failing(status), failing(status), serving(CONTENT)]
    [file] = fetch_archives(server.address, [ENTRY], folder)
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
def test_without_a_connection_one_message_says_what_to_do(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 2)
    server.address = address
    said = message(server, folder, ENTRY)
    for part in (f"{address}/data.zip", reason, f"put it at {folder / 'data.zip'}"):
        assert part in said
    assert "dataset=folder dataset.root=PATH" in said
    assert names(folder) == set()


def test_an_archive_without_a_published_sum_is_read_and_its_sum_taken(
    server: Server, folder: Path
) -> None:
    content = zipped(one=CONTENT, two=CONTENT[:1000])
    server.script = [serving(content, drop=HALF), serving(content)]
    fetched = fetch_archives(server.address, ["data.zip"], folder)
    sha256 = hashlib.sha256(content).hexdigest()
    assert fetched == {folder / "data.zip": f"sha256:{sha256}"}


def test_without_a_published_sum_damage_in_a_picture_is_found(server: Server, folder: Path) -> None:
    content = bytearray(zipped(one=CONTENT))
    content[HALF] ^= 1
    server.script = [serving(bytes(content))]
    said = message(server, folder, "data.zip")
    assert "'one.jpg' cannot be read (Bad CRC-32" in said
    assert names(folder) == set()


def test_without_a_published_sum_a_page_is_no_archive(server: Server, folder: Path) -> None:
    server.script = [serving(PAGE)]
    assert "no whole zip archive" in message(server, folder, "data.zip")
    assert names(folder) == set()


def test_a_full_disk_is_one_message_and_the_part_stays(
    server: Server, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("256k")
    assert "the disk is full" in message(server, disk, ENTRY)
    assert names(disk) == {"data.zip.part"}
    assert len(server.ranges) == 1


def test_no_room_for_the_part_is_one_message(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "data.zip.part").symlink_to("/dev/full")
    assert "the disk is full" in message(server, folder, ENTRY)


def test_a_folder_that_cannot_be_made_is_one_message(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in message(server, tmp_path / "file", ENTRY)


@pytest.fixture
def encrypted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The same server behind TLS, with a certificate that requests is told to trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not there to make a certificate; others need none")
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


def test_over_https_a_file_comes_and_redirects_to_https_are_followed(
    encrypted: Server, folder: Path
) -> None:
    encrypted.script = [redirecting(encrypted.address), serving(CONTENT)]
    [file] = fetch_archives(encrypted.address, [ENTRY], folder, insecure=False)
    assert file.read_bytes() == CONTENT
    assert encrypted.paths == ["/data.zip", "/elsewhere.zip"]


def test_a_redirect_that_leaves_https_is_not_followed(
    server: Server, encrypted: Server, folder: Path
) -> None:
    encrypted.script = [redirecting(server.address)]
    said = message(encrypted, folder, ENTRY, insecure=False)
    assert f"cannot be fetched ({server.address}/elsewhere.zip is not encrypted" in said
    assert encrypted.paths == ["/data.zip"]
    assert server.paths == []
    [file] = fetch_archives(encrypted.address, [ENTRY], folder, insecure=True)
    assert file.read_bytes() == CONTENT


def test_a_certificate_that_nobody_vouches_for_is_refused(
    encrypted: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    assert "certificate verify failed" in message(encrypted, folder, ENTRY, insecure=False)
    assert encrypted.paths == []


def test_without_encryption_nothing_is_asked_for(server: Server, folder: Path) -> None:
    said = message(server, folder, ENTRY, insecure=False)
    assert f"({server.address}/data.zip is not encrypted" in said
    assert server.paths == []


def test_a_file_announced_too_large_is_not_taken(server: Server, folder: Path) -> None:
    server.script = [serving(CONTENT, lie=3 * 10**9)]
    assert "it has 3.0 GB, and at most 1 GB are taken" in message(server, folder, ENTRY)
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
    said = message(server, folder, ENTRY, largest=0.01)
    assert "and at most 0.01 GB are taken" in said
    assert len(server.ranges) < 30
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10**7
