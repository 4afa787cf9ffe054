"""metarun.tasks.sources.download, against a server on this machine that breaks off, lies, refuses and dawdles."""

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metarun.tasks.sources import download as module
from metarun.tasks.sources.catalogue import Archive
from metarun.tasks.sources.download import DownloadError, download

CONTENT = bytes(range(256)) * 4000  # 1 MB
Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the test says, and remembers what was asked."""

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        self.server.answer(self)

    def send(self, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.asked, running.daemon_threads = [], True
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def archive_at(server: http.server.ThreadingHTTPServer, md5: str | None = "") -> Archive:
    md5 = hashlib.md5(CONTENT).hexdigest() if md5 == "" else md5
    return Archive(name="set.zip", md5=md5, address=f"http://127.0.0.1:{server.server_port}/set.zip")


def get(server: http.server.ThreadingHTTPServer, folder: Path, answer: Answer, **arguments) -> Path:
    server.answer = answer
    archive = arguments.pop("archive", None) or archive_at(server)
    return download(archive, folder, wait_s=0.0, timeout_s=(2, 2), **arguments)


def whole(handler: Handler) -> None:
    handler.send(CONTENT)


def resuming(handler: Handler) -> None:
    """An honest server: the range that is asked for."""
    wanted = handler.headers.get("Range")
    if wanted is None:
        return handler.send(CONTENT)
    first = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if first >= len(CONTENT):
        return handler.send(b"", 416)
    return handler.send(CONTENT[first:], 206)


def test_a_file_arrives_under_its_name_with_progress(server, tmp_path):
    seen = []
    path = get(server, tmp_path / "new", whole, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "set.zip" and path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert sorted(os.listdir(path.parent)) == ["set.zip", "set.zip.lock"]


def test_a_file_that_is_there_is_not_asked_for(server, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"mine")
    assert get(server, tmp_path, whole).read_bytes() == b"mine" and server.asked == []


def test_cut_off_in_the_middle_it_goes_on_from_there(server, tmp_path):
    def cut(handler: Handler) -> None:
        if len(server.asked) == 1:
            handler.send(CONTENT[:400_000], length=len(CONTENT))
            handler.close_connection = True
        else:
            resuming(handler)

    path = get(server, tmp_path, cut)
    assert path.read_bytes() == CONTENT
    first, second = server.asked
    assert first is None and second.startswith("bytes=")
    resumed_at = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 0 < resumed_at <= 400_000


def test_what_an_earlier_process_got_is_kept(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:123_456])
    assert get(server, tmp_path, resuming).read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_a_part_that_is_whole_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert get(server, tmp_path, resuming).read_bytes() == CONTENT


def test_a_server_that_does_not_resume_sends_everything_again(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(b"y" * 1000)
    assert get(server, tmp_path, whole).read_bytes() == CONTENT


def test_cut_off_again_and_again_it_goes_on_while_something_comes(server, tmp_path):
    """Ten pieces, twice as many as there may be attempts that bring nothing."""

    def cut(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        status = 206 if wanted else 200
        handler.send(CONTENT[first : first + 140_000], status, length=len(CONTENT) - first)
        handler.close_connection = True

    assert get(server, tmp_path, cut).read_bytes() == CONTENT
    assert len(server.asked) > 5


def test_cut_off_every_time_it_stops_and_keeps_what_came(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])

    def cut(handler: Handler) -> None:
        handler.send(b"", 206, length=len(CONTENT) - 1000)
        handler.close_connection = True

    message = r"in 5 attempts the connection broke off.* 1,000 bytes are kept in .*set\.zip\.part"
    with pytest.raises(DownloadError, match=message):
        get(server, tmp_path, cut)
    assert len(server.asked) == 5 and not (tmp_path / "set.zip").exists()


def test_wrong_bytes_are_refused_and_taken_away(server, tmp_path):
    with pytest.raises(DownloadError, match=r"1,024,000 bytes that came have MD5 .*, and the official file has 0123"):
        get(server, tmp_path, whole, archive=archive_at(server, "0123"))
    assert os.listdir(tmp_path) == ["set.zip.lock"]


def test_a_web_page_is_called_one(server, tmp_path):
    page = b"<!DOCTYPE html><html>Google Drive - Quota exceeded" + b"x" * 3000

    def answer(handler: Handler) -> None:
        handler.send(page)

    with pytest.raises(DownloadError, match=r"an HTML page of 3 kB: the download was refused.* by hand, from http"):
        get(server, tmp_path, answer)
    with pytest.raises(DownloadError, match="an HTML page"):
        get(server, tmp_path, answer, archive=archive_at(server, None))  # also where there is no checksum
    assert os.listdir(tmp_path) == ["set.zip.lock"]


def test_not_found_is_said_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match=r"the server answered 404 Not Found\. Get it by hand"):
        get(server, tmp_path, lambda handler: handler.send(b"no", 404))
    assert len(server.asked) == 1 and os.listdir(tmp_path) == ["set.zip.lock"]


def test_a_busy_server_is_asked_again(server, tmp_path):
    def busy(handler: Handler) -> None:
        if len(server.asked) < 3:
            handler.send(b"", 503)
        else:
            handler.send(CONTENT)

    assert get(server, tmp_path, busy).read_bytes() == CONTENT and len(server.asked) == 3


def test_a_slow_server_is_waited_for(server, tmp_path):
    """Slower in all than the time-out, which is for the time between two bytes."""

    def slow(handler: Handler) -> None:
        handler.send(b"", length=len(CONTENT))
        for start in range(0, len(CONTENT), len(CONTENT) // 8):
            handler.wfile.write(CONTENT[start : start + len(CONTENT) // 8])
            handler.wfile.flush()
            time.sleep(0.15)

    server.answer = slow
    path = download(archive_at(server), tmp_path, wait_s=0.0, timeout_s=(2, 0.8))
    assert path.read_bytes() == CONTENT and len(server.asked) == 1


def test_a_server_that_says_nothing_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ATTEMPTS", 2)
    hangs = threading.Event()
    server.answer = lambda handler: hangs.wait(5)
    with pytest.raises(DownloadError, match="in 2 attempts the server did not answer in time"):
        download(archive_at(server), tmp_path, wait_s=0.0, timeout_s=(0.3, 0.3))
    hangs.set()


def test_nobody_there(tmp_path):
    nobody = Archive(name="set.zip", md5=None, address="http://127.0.0.1:9/set.zip")
    with pytest.raises(DownloadError, match=r"in 5 attempts the connection was refused\. Get it by hand"):
        download(nobody, tmp_path, wait_s=0.0)


def test_too_little_room_is_found_before_a_byte_is_written(server, tmp_path, monkeypatch):
    class Room:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Room)
    with pytest.raises(DownloadError, match=r"0 MiB free, and 1 MiB are to be downloaded\. Set data\.root"):
        get(server, tmp_path, whole)
    assert os.listdir(tmp_path) == ["set.zip.lock"]


def test_a_data_folder_that_cannot_be_made_names_the_key(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DownloadError, match=r"data folder .*file/omniglot must be one that can be written: .*Set data\.root"
    ):
        get(server, tmp_path / "file" / "omniglot", whole)


def test_a_data_folder_that_cannot_be_written_names_the_key(server, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DownloadError, match=rf"data folder {tmp_path} must be .* Permission denied\. Set data\.root"):
        get(server, tmp_path, whole)


def test_a_disk_that_fills_up_is_named_with_the_file(server, tmp_path):
    partial = tmp_path / "set.zip.part"
    partial.symlink_to("/dev/full")
    with pytest.raises(
        DownloadError, match=rf"^{partial} cannot be written: No space left on device\..*set data\.root"
    ):
        get(server, tmp_path, whole)


def test_of_two_at_once_one_downloads_and_both_have_the_file(server, tmp_path):
    gate = threading.Event()

    def answer(handler: Handler) -> None:
        gate.wait(5)
        handler.send(CONTENT)

    server.answer = answer
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(download(archive_at(server), tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    gate.set()
    for thread in threads:
        thread.join(20)
    assert paths == [tmp_path / "set.zip"] * 2 and len(server.asked) == 1
    assert paths[0].read_bytes() == CONTENT
