"""The whole service in its embedded form: real broker, Celery, database and job processes, and what kills them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from headroom.errors import InvalidArgument
from headroom.local.broker import MAX_SOCKET_PATH_BYTES
from headroom.local.embedded import EmbeddedServer, ServerFailed
from tests.served import FINAL, Restarted, Service
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

# Short enough for a test to wait for, long enough for a busy machine.
TIMES = {
    "HEADROOM_LEASE_SECONDS": "6",
    "HEADROOM_HEARTBEAT_SECONDS": "0.5",
    "HEADROOM_RETRY_PAUSE_SECONDS": "0.2",
    "HEADROOM_SWEEP_SECONDS": "0.3",
    "HEADROOM_THREADS": "1",
    "HEADROOM_HUB_ENDPOINT": "",
}
SHORT = {"calibration_tokens": 2048, "evaluation_tokens": 2048, "window": 64}
KILLED = SHORT | {"calibration_tokens": 98_304}  # encodes for about a second: long enough to be found at it
LONG = {"calibration_tokens": 2_000_000, "evaluation_tokens": 2_000_000, "window": 64}
FULL_SECONDS = 12.0  # a supervisor that gives up after five deaths had done so by then
PATIENCE_SECONDS = 60.0  # more than the longest pause before a dead program is started again
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_checkpoint(folder / "acme" / "tiny")
    return folder


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in TIMES.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder; a file system of 400 MB of its own where this machine lets us mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], capture_output=True)
    yield folder
    if mounted.returncode == 0:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def restarted(disk: Path, models_dir: Path, environment: None) -> Iterator[Restarted]:
    """In a deep folder with an odd name. Each test leaves it without jobs under way, whatever it killed."""
    made = Restarted(disk / ("my data 100% " * 8).strip(), models_dir)
    yield made
    made.close()


@pytest.fixture
def service(restarted: Restarted) -> Service:
    return restarted.running().service


@pytest.fixture
def data_dir(restarted: Restarted) -> Path:
    return restarted.data_dir


def find_process(*words: str) -> psutil.Process:
    """The one descendant of this process whose command line holds all `words`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if all(any(word in part for part in command) for word in words):
            found.append(process)
    assert len(found) == 1, found
    return found[0]


def is_alive(process: psutil.Process) -> bool:
    """A zombie is dead: it only waits for the init process of this machine."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_job_whose_process_is_killed_in_the_middle_runs_again_and_ends_once(service: Service) -> None:
    job_id = service.post(KILLED)
    service.wait(job_id, lambda job: job["phase"] == "encoding")
    find_process("workers.processes.job_process", job_id).kill()

    ended = service.wait_for_end(job_id)

    assert ended["status"] == "succeeded", ended
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["worker_lost", "succeeded"]
    assert service.ends(job_id) == ["succeeded"]
    listed = service.http.get(f"/v1/jobs/{job_id}/files").json()["data"]
    assert {"config.json", "headroom.json", "README.md", "report.json", "report.html"} <= {
        file["path"] for file in listed
    }


def test_a_running_job_is_canceled_within_ten_seconds_and_the_next_one_runs(service: Service, data_dir: Path) -> None:
    long = service.post(LONG, words=100_000)
    short = service.post(SHORT)
    service.wait(long, lambda job: job["phase"] == "encoding")
    asked = time.monotonic()
    assert service.http.post(f"/v1/jobs/{long}/cancel").status_code == 202

    assert service.wait_for_end(long)["status"] == "canceled"

    assert time.monotonic() - asked < 10
    assert service.http.get(f"/v1/jobs/{long}/files").json().get("data", []) == []
    assert list((data_dir / "artifacts" / "staging").glob(f"{long}/*")) == []
    assert service.wait_for_end(short)["status"] == "succeeded"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pool processes outlive the worker for a while")
def test_a_killed_worker_is_replaced_and_its_job_runs_again(service: Service) -> None:
    job_id = service.post(KILLED)
    service.wait(job_id, lambda job: job["phase"] == "encoding")
    process = find_process("workers.processes.job_process", job_id)
    find_process("celeryd", "MainProcess").kill()  # as Celery names it

    ended = service.wait_for_end(job_id)

    assert ended["status"] == "succeeded", ended
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["worker_lost", "succeeded"]
    assert not is_alive(process), "the first job process did not outlive its worker"


def test_a_job_posted_while_the_broker_is_dead_is_accepted_and_runs(service: Service) -> None:
    find_process("unixsocket").kill()

    job_id = service.post(SHORT)

    assert service.wait_for_end(job_id)["status"] == "succeeded"
    assert service.ends(job_id) == ["succeeded"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can make a small disk")
def test_a_full_disk_fails_the_job_with_its_code_and_the_service_goes_on(service: Service, data_dir: Path) -> None:
    artifacts = data_dir / "artifacts"
    artifacts.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", artifacts], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        full = service.wait_for_end(service.post(SHORT))
        left = [path for path in artifacts.rglob("*") if path.is_file() and path.name != "lock"]
    finally:
        subprocess.run(["umount", "--lazy", artifacts], check=True)

    assert (full["status"], full["error"]["code"]) == ("failed", "disk_full"), full
    assert left == []
    assert service.wait_for_end(service.post(SHORT))["status"] == "succeeded"


def test_a_server_on_a_full_disk_answers_and_goes_on_once_there_is_room(service: Service, disk: Path) -> None:
    if not os.path.ismount(disk):
        pytest.skip("may not mount a file system here")
    assert service.wait_for_end(service.post(SHORT))["status"] == "succeeded"
    ballast = fill(disk)
    statuses = set()
    until = time.monotonic() + FULL_SECONDS
    while time.monotonic() < until:
        assert service.http.get("/livez").status_code == 200
        body = {"model": "acme/tiny", "ratio": 0.5, "corpus": {"text": "the head of a model " * 2000}}
        statuses.add(service.http.post("/v1/jobs", json=body).status_code)
        statuses.add(service.http.post("/v1/corpora", content=os.urandom(3000).hex(), headers=TEXT).status_code)
        time.sleep(0.5)
    assert statuses & {503, 507}
    assert statuses <= {201, 202, 503, 507}, statuses

    ballast.unlink()

    job_id = post_when_possible(service)
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    assert service.http.get("/readyz", params={"exclude": "disk"}).status_code == 200
    cancel_all(service)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            os.fsync(file.fileno())
    return ballast


def post_when_possible(service: Service) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return service.post(SHORT)
        except (AssertionError, KeyError, httpx.HTTPError):
            assert time.monotonic() < deadline, "no job could be posted although there is room"
            time.sleep(0.5)


def cancel_all(service: Service) -> None:
    for job in service.http.get("/v1/jobs", params={"limit": 100}).json()["data"]:
        if job["status"] not in FINAL:
            service.http.post(f"/v1/jobs/{job['id']}/cancel")
            service.wait_for_end(job["id"])


def test_after_everything_was_killed_queued_and_running_jobs_go_on(restarted: Restarted) -> None:
    first = restarted.running()
    running, queued = first.service.post(KILLED), first.service.post(SHORT)
    first.service.wait(running, lambda job: job["phase"] == "encoding")
    first.kill_everything()

    second = restarted.running()

    for job_id in (running, queued):
        assert second.service.wait_for_end(job_id)["status"] == "succeeded"
        assert second.service.ends(job_id) == ["succeeded"]
    assert [attempt["outcome"] for attempt in second.service.job(running)["attempts"]] == ["worker_lost", "succeeded"]


def test_a_server_told_to_stop_gives_its_running_job_back_and_leaves_no_process(
    restarted: Restarted, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = restarted.running()
    job_id = first.service.post(LONG, words=100_000)
    first.service.wait(job_id, lambda job: job["phase"] == "encoding")
    everything = first.process.children(recursive=True)

    first.stop()

    assert [process for process in everything if is_alive(process)] == []
    monkeypatch.setenv("HEADROOM_PRELOAD", "0")  # no job runs to its end there, so none needs torch loaded
    second = restarted.running()
    again = second.service.wait(job_id, lambda job: job["attempt"] == 2)
    assert again["attempts"][0]["outcome"] == "worker_stopped"
    second.service.http.post(f"/v1/jobs/{job_id}/cancel")
    second.service.wait_for_end(job_id)


def test_a_second_server_on_the_same_folder_is_refused_with_the_address_of_the_first(
    service: Service, data_dir: Path
) -> None:
    url = str(service.http.base_url).rstrip("/")
    with pytest.raises(ServerFailed, match=f"Another server uses .*{url}"):
        EmbeddedServer(data_dir, None, port=0).start()


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidArgument, match=f"Port {port} .* --port"):
            EmbeddedServer(tmp_path / "data", None, port=port).start()

    assert not (tmp_path / "data" / "logs").exists()


def test_a_deep_data_directory_with_an_odd_name_works_too(service: Service, data_dir: Path) -> None:
    assert len(os.fsencode(data_dir / "broker.sock")) > MAX_SOCKET_PATH_BYTES
    ready = service.http.get("/readyz", params={"exclude": "disk"})  # it may be a small one
    assert ready.json()["ready"] is True


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADROOM_LEASE_SECONDS", "soon")
    before = psutil.Process().children(recursive=True)  # servers that other tests share

    with pytest.raises(ServerFailed, match=r"migration failed.*migration\.log"):
        EmbeddedServer(tmp_path / "data", None, port=0).start()

    assert set(psutil.Process().children(recursive=True)) <= set(before)
    assert os.listdir(tmp_path / "data" / "broker") != []
