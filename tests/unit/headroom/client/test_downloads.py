"""Downloads against a server that cuts, lies and forgets."""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from headroom.client.connection import Connection
from headroom.client.downloads import download_files
from headroom.contract.answers.stored import FileView
from headroom.errors import DownloadError, HeadroomError, ServerUnreachable

CONTENT = os.urandom(300_000)


@dataclass
class Source:
    """What the server does. `cuts`: after how many bytes of the body each next connection breaks."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    honours_ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answered before anything else
    ranges: list[str | None] = field(default_factory=list)  # what was asked for

    def listing(self) -> list[FileView]:
        return [
            FileView(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in self.files.items()
        ]


@pytest.fixture
def source() -> Iterator[Source]:
    state = Source()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.ranges.append(asked)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            data = state.files[unquote(self.path.removeprefix("/files/"))]
            start = int(re.findall(r"\d+", asked)[0]) if asked and state.honours_ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + state.cuts.pop(0)] if state.cuts else data[start:])

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(source: Source, folder: Path, listing: list[FileView] | None = None) -> list[Path]:
    connection = Connection(source.url, None, timeout=5.0, pauses=())
    try:
        return download_files(connection, "/files", listing or source.listing(), folder, pause=0.001)
    finally:
        connection.close()


def test_files_arrive_whole_in_their_folders(source: Source, tmp_path: Path) -> None:
    source.files = {"model.safetensors": CONTENT, "sub/empty.txt": b""}
    assert fetch(source, tmp_path / "new") == [tmp_path / "new/model.safetensors", tmp_path / "new/sub/empty.txt"]
    assert (tmp_path / "new/model.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "new/sub/empty.txt").read_bytes() == b""
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model.safetensors", "sub"]


def test_a_cut_download_goes_on_with_the_missing_bytes(source: Source, tmp_path: Path) -> None:
    source.files, source.cuts = {"a": CONTENT}, [100_000, 50_000]
    fetch(source, tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert source.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_where_the_first_one_gave_up(source: Source, tmp_path: Path) -> None:
    source.files, source.cuts = {"a": CONTENT}, [100_000] + [0] * 6
    with pytest.raises(ServerUnreachable):
        fetch(source, tmp_path)
    assert not (tmp_path / "a").exists()
    source.ranges.clear()
    fetch(source, tmp_path)
    assert source.ranges == ["bytes=100000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_read_from_the_start(source: Source, tmp_path: Path) -> None:
    source.files, source.cuts, source.honours_ranges = {"a": CONTENT}, [100_000], False
    fetch(source, tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_that_always_cuts_at_the_same_byte_is_given_up(source: Source, tmp_path: Path) -> None:
    source.files, source.cuts, source.honours_ranges = {"a": CONTENT}, [100_000] * 50, False
    with pytest.raises(ServerUnreachable):
        fetch(source, tmp_path)
    assert len(source.ranges) == 7


def test_a_server_that_starts_again_is_waited_for(source: Source, tmp_path: Path) -> None:
    source.files, source.statuses = {"a": CONTENT}, [503, 502]
    fetch(source, tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_missing_file_ends_the_download_at_once(source: Source, tmp_path: Path) -> None:
    source.files, source.statuses = {"a": CONTENT}, [404]
    with pytest.raises(HeadroomError):
        fetch(source, tmp_path)
    assert len(source.ranges) == 1


def test_bad_remains_of_an_older_call_are_replaced(source: Source, tmp_path: Path) -> None:
    source.files = {"a": CONTENT}
    digest = source.listing()[0].sha256
    (tmp_path / f".a.{digest[:16]}.part").write_bytes(b"x" * 1000)
    fetch(source, tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_no_file_at_all(source: Source, tmp_path: Path) -> None:
    source.files = {"good": b"fine", "bad": CONTENT}
    listing = source.listing()
    source.files["bad"] = b"\0" + CONTENT[1:]
    with pytest.raises(DownloadError, match="wrong hash"):
        fetch(source, tmp_path, listing)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_size_that_is_not_as_announced_is_refused(source: Source, tmp_path: Path, size: int) -> None:
    source.files = {"a": CONTENT}
    with pytest.raises(DownloadError):
        fetch(source, tmp_path, [FileView(path="a", size=size, sha256=hashlib.sha256(CONTENT).hexdigest())])
    assert not (tmp_path / "a").exists()


def test_a_file_that_is_there_already_is_not_fetched_again(source: Source, tmp_path: Path) -> None:
    source.files = {"a": CONTENT}
    (tmp_path / "a").write_bytes(CONTENT)
    fetch(source, tmp_path)
    assert source.ranges == []


@pytest.mark.parametrize(
    "path",
    [
        *("../a", "/a", "a/../../b", "", ".", "a//b", "a\\b", "C:a", ".git/config", "a\0b", "a\nb", "con./x", "a/"),
        *(".env", "a?b", "a\ud800", "a" * 256),
    ],
)
def test_an_unsafe_name_stops_everything(source: Source, tmp_path: Path, path: str) -> None:
    source.files = {"fine": b"x"}
    with pytest.raises(DownloadError, match="unsafe name"):
        fetch(source, tmp_path / "in", [*source.listing(), FileView(path=path, size=1, sha256="0" * 64)])
    assert source.ranges == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["tokenizer (1).json", "模型/词表.txt", "é & ü [1]#%20.txt", "a" * 255])
def test_a_file_of_any_other_name_arrives(source: Source, tmp_path: Path, path: str) -> None:
    source.files = {path: b"content"}

    fetch(source, tmp_path / "in")

    assert (tmp_path / "in" / path).read_bytes() == b"content"


def test_a_link_out_of_the_folder_is_not_followed(source: Source, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/sub").symlink_to(tmp_path / "out")
    source.files = {"sub/a": b"x"}
    with pytest.raises(DownloadError, match="link out"):
        fetch(source, tmp_path / "in")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_announced_twice_is_refused(source: Source, tmp_path: Path) -> None:
    source.files = {"a": b"x"}
    with pytest.raises(DownloadError, match="twice"):
        fetch(source, tmp_path, source.listing() * 2)
