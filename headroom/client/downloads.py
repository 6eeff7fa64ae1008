"""Bring published files to a folder: resumed after cuts, verified, then renamed into place all together.

What is written under a final name has the announced hash. Partial files are hidden (`.NAME.HASH.part`) and stay after
a failure, so that the next call goes on where this one stopped. Nothing already in the folder is removed.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

import httpx

from headroom.client.connection import Connection
from headroom.contract.answers.stored import FileView
from headroom.contract.file_names import MAX_STEP_BYTES, is_safe_path
from headroom.errors import DownloadError, HeadroomError

CHUNK_BYTES = 1 << 20
PARALLEL = 4
FRUITLESS_ATTEMPTS = 6  # in a row, each without one new byte; with the pauses, time for a server to start again
FIRST_PAUSE_SECONDS = 0.2  # doubles
COMES_BACK = frozenset({502, 503, 504})
SHA256 = re.compile(r"[0-9a-f]{64}")

OnBytes = Callable[[int], None]  # how many bytes have arrived since the last call


def target_of(folder: Path, file: FileView) -> Path:
    """Where a file goes. DownloadError for a path that leaves the folder, or that some system reads differently."""
    if not is_safe_path(file.path) or not SHA256.fullmatch(file.sha256) or file.size < 0:
        raise DownloadError(f"The server announced a file with the unsafe name {file.path!r}; nothing was written.")
    target = folder / PurePosixPath(file.path)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(f"{target.parent} is a link out of {folder}; choose another folder.")
    return target


def download_files(
    connection: Connection,
    route: str,
    files: Sequence[FileView],
    folder: Path,
    on_bytes: OnBytes | None = None,
    pause: float = FIRST_PAUSE_SECONDS,
) -> list[Path]:
    """Fetch every file below `route` into `folder`. The final names appear only once all files are verified."""
    targets = [target_of(folder, file) for file in files]
    if len(set(targets)) != len(targets):
        raise DownloadError("The server announced one file twice; nothing was written.")
    stop = threading.Event()
    fetches = [
        _Fetch(connection, route, file, target, on_bytes, stop, pause)
        for file, target in zip(files, targets, strict=True)
    ]
    with ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="download") as pool:
        futures = [pool.submit(fetch) for fetch in fetches]
        try:
            for future in futures:
                future.result()
        except BaseException:  # also Ctrl-C: the other threads end at their next chunk
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for fetch in fetches:
        fetch.put_in_place()
    for parent in {target.parent for target in targets}:
        _sync_folder(parent)
    return targets


class _Fetch:
    """One file on its way. Runs in one thread."""

    def __init__(
        self,
        connection: Connection,
        route: str,
        file: FileView,
        target: Path,
        on_bytes: OnBytes | None,
        stop: threading.Event,
        pause: float,
    ) -> None:
        self._connection = connection
        self._url = f"{route}/{quote(file.path)}"
        self._file = file
        self._target = target
        self._partial = target.with_name(_partial_name(target.name, file.sha256))
        self._on_bytes = on_bytes or (lambda count: None)
        self._stop = stop
        self._pause = pause
        self._hash = hashlib.sha256()
        self._have = 0
        self._told = 0  # the most bytes ever reported to on_bytes: a restart is not counted twice
        self._in_place = False

    def __call__(self) -> None:
        self._in_place = self._is_there_already()
        if self._in_place:
            self._tell(self._file.size)
            return
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._fetch_rest()
        if self._hash.hexdigest() != self._file.sha256:  # perhaps the remains of an older call were bad: once more
            self._partial.unlink(missing_ok=True)
            self._fetch_rest()
        if self._hash.hexdigest() != self._file.sha256:
            self._partial.unlink(missing_ok=True)
            raise DownloadError(
                f"{self._file.path} arrived with a wrong hash, twice; the server's copy or the way to it is damaged."
            )

    def put_in_place(self) -> None:
        if not self._in_place:
            self._partial.replace(self._target)

    def _is_there_already(self) -> bool:
        if not self._target.is_file() or self._target.stat().st_size != self._file.size:
            return False
        with self._target.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self._file.sha256

    def _fetch_rest(self) -> None:
        """Append to the partial file until it is whole, over as many connections as that takes."""
        with self._partial.open("a+b") as stream:
            self._reread(stream)
            fruitless = 0
            furthest = self._have
            while self._have < self._file.size:
                error = self._one_connection(stream)
                fruitless = 0 if self._have > furthest else fruitless + 1
                furthest = max(furthest, self._have)
                if fruitless >= FRUITLESS_ATTEMPTS:
                    raise error or DownloadError(f"{self._file.path} arrives shorter than announced.")
                if fruitless:
                    self._stop.wait(self._pause * 2**fruitless)
            stream.flush()
            os.fsync(stream.fileno())

    def _one_connection(self, stream: BinaryIO) -> HeadroomError | None:
        """Read what one answer holds. A cut is returned, not raised: the caller decides whether to go on."""
        etag = f'"{self._file.sha256}"'
        headers = {"Accept-Encoding": "identity"}  # ranges count the bytes as they are stored
        if self._have:
            headers |= {"Range": f"bytes={self._have}-", "If-Range": etag}
        try:
            with self._connection.stream(self._url, headers) as response:
                if response.status_code >= 400:
                    return self._refused(response)
                if not self._continues(response):
                    self._restart(stream)
                for chunk in response.iter_raw():  # as it comes: gathering larger chunks would lose one at a cut
                    self._append(stream, chunk)
        except httpx.TransportError as error:
            return self._connection.unreachable(error)
        return None

    def _refused(self, response: httpx.Response) -> HeadroomError:
        response.read()
        try:
            self._connection.raise_for_problem(response)
        except HeadroomError as error:
            if response.status_code in COMES_BACK:
                return error
            raise
        raise AssertionError("only answers of 400 and above come here")

    def _continues(self, response: httpx.Response) -> bool:
        return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {self._have}-"
        )

    def _append(self, stream: BinaryIO, chunk: bytes) -> None:
        if self._stop.is_set():
            raise DownloadError("The download was stopped.")
        if self._have + len(chunk) > self._file.size:
            raise DownloadError(f"{self._file.path} is longer than announced; the server's copy is damaged.")
        stream.write(chunk)
        self._hash.update(chunk)
        self._have += len(chunk)
        self._tell(self._have)

    def _reread(self, stream: BinaryIO) -> None:
        """Take up what an earlier call left."""
        self._hash = hashlib.sha256()
        self._have = 0
        stream.seek(0)
        while chunk := stream.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self._have += len(chunk)
        if self._have > self._file.size:
            self._restart(stream)
        self._tell(self._have)

    def _restart(self, stream: BinaryIO) -> None:
        stream.seek(0)
        stream.truncate()
        self._hash = hashlib.sha256()
        self._have = 0

    def _tell(self, have: int) -> None:
        if have > self._told:
            self._on_bytes(have - self._told)
            self._told = have


def _partial_name(name: str, sha256: str) -> str:
    """Hidden; of a name that would become too long, its hash stands for it."""
    partial = f".{name}.{sha256[:16]}.part"
    if len(partial.encode()) > MAX_STEP_BYTES:
        partial = f".{hashlib.sha256(name.encode()).hexdigest()}.{sha256[:16]}.part"
    return partial


def _sync_folder(folder: Path) -> None:
    """Make the renames in it last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
