"""A process forked by a real server is a process of its own: session, environment, standard input, return code."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from workers.attempts.forked_group import SOCKET_VARIABLE, ForkedGroup, ForkServer, start_module, wait_until_loaded
from workers.attempts.process_group import ProcessGroup

pytestmark = pytest.mark.processes

CHILD = """
import json, os, subprocess, sys, time

def main(arguments):
    if arguments[0] == "tell":
        seen = {
            "arguments": arguments, "colour": os.environ.get("COLOUR"), "home": os.environ.get("HOME"),
            "session": os.getsid(0), "policy": os.environ["OMP_WAIT_POLICY"], "server": os.getppid(),
        }
        with open(arguments[1] + ".new", "w") as file:
            json.dump(seen, file)
        os.rename(arguments[1] + ".new", arguments[1])
    elif arguments[0] == "read":
        sys.exit(7 if sys.stdin.buffer.read() == b"" else 8)
    elif arguments[0] == "fail":
        raise RuntimeError("a defect")
    elif arguments[0] == "exit":
        sys.exit(int(arguments[1]))
    else:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with open(arguments[1] + ".new", "w") as file:
            file.write(str(child.pid))
        os.rename(arguments[1] + ".new", arguments[1])
        time.sleep(60)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "forked_child.py").write_text(CHILD)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    server = ForkServer(["json"])
    try:
        deadline = time.monotonic() + 20
        while not Path(server.path).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield dict(os.environ) | {SOCKET_VARIABLE: server.path}
    finally:
        server.close()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)


def read_when_there(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.read_text()


def is_gone(process: psutil.Process) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_forked_module_has_its_own_arguments_environment_and_session(
    environment: dict[str, str], tmp_path: Path
) -> None:
    note = tmp_path / "seen"
    group = start_module("forked_child", ["tell", str(note)], environment | {"COLOUR": "green"})
    assert isinstance(group, ForkedGroup)
    assert group.wait(20) == 0
    seen = json.loads(note.read_text())
    assert seen["arguments"] == ["tell", str(note)]
    assert (seen["colour"], seen["home"], seen["policy"]) == ("green", environment.get("HOME"), "PASSIVE")
    assert seen["session"] == group.pid != os.getsid(0)
    assert group.kill() == 0


@pytest.mark.parametrize(("arguments", "code"), [(["exit", "3"], 3), (["fail"], 1)])
def test_how_it_ended_is_told(environment: dict[str, str], arguments: list[str], code: int) -> None:
    group = start_module("forked_child", arguments, environment)
    assert group.wait(20) == code
    assert group.reap() == code


def test_its_standard_input_ends_when_the_group_is_closed_and_not_before(environment: dict[str, str]) -> None:
    group = start_module("forked_child", ["read"], environment)
    assert isinstance(group, ForkedGroup)
    assert group.wait(0.5) is None, "the child still reads: this process is alive"
    os.close(group._pipe)
    group._pipe = -1
    assert group.wait(20) == 7
    group.reap()


def test_all_that_it_started_ends_with_it(environment: dict[str, str], tmp_path: Path) -> None:
    group = start_module("forked_child", ["stay", str(tmp_path / "pid")], environment)
    grandchild = psutil.Process(int(read_when_there(tmp_path / "pid")))
    assert " ".join(psutil.Process(group.pid).cmdline()).startswith("python -m forked_child stay")
    assert group.wait(0.05) is None
    assert group.end(grace_seconds=1.0) == -signal.SIGTERM
    assert is_gone(grandchild)


def test_several_run_side_by_side(environment: dict[str, str], tmp_path: Path) -> None:
    groups = [start_module("forked_child", ["stay", str(tmp_path / f"pid{n}")], environment) for n in range(3)]
    for number, group in enumerate(groups):
        read_when_there(tmp_path / f"pid{number}")
        assert group.wait(0.0) is None
    assert [group.kill() for group in groups] == [-signal.SIGKILL] * 3


def test_without_a_server_a_new_interpreter_is_started(environment: dict[str, str], tmp_path: Path) -> None:
    gone = environment | {SOCKET_VARIABLE: str(tmp_path / "no-socket")}
    for variables in (gone, {name: value for name, value in environment.items() if name != SOCKET_VARIABLE}):
        group = start_module("json.tool", ["--help"], variables)
        assert isinstance(group, ProcessGroup)
        assert group.wait(20) == 0
        group.kill()


def test_a_server_that_dies_takes_nothing_into_limbo(environment: dict[str, str], tmp_path: Path) -> None:
    """Its process is killed, and counts as killed: the attempt is lost and tried again."""
    server = ForkServer(["json"])
    deadline = time.monotonic() + 20
    while not Path(server.path).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    variables = environment | {SOCKET_VARIABLE: server.path}
    group = start_module("forked_child", ["stay", str(tmp_path / "pid")], variables)
    try:
        child = psutil.Process(group.pid)
        read_when_there(tmp_path / "pid")
        server._process.kill()
        assert group.wait(20) == -signal.SIGKILL
        assert is_gone(child)
    finally:
        group.kill()
        server.close()


def test_a_server_that_still_loads_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        waiting = threading.Thread(target=wait_until_loaded, args=({SOCKET_VARIABLE: path},))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()

        listener.accept()[0].close()

        waiting.join(5)
        assert not waiting.is_alive()


def test_a_server_that_has_loaded_is_not_waited_for_and_starts_processes_afterwards(
    environment: dict[str, str],
) -> None:
    begun = time.monotonic()
    wait_until_loaded(environment)
    assert time.monotonic() - begun < 5
    assert start_module("forked_child", ["exit", "3"], environment).reap() == 3


def test_nothing_is_waited_for_where_no_server_is(tmp_path: Path) -> None:
    wait_until_loaded({})
    wait_until_loaded({SOCKET_VARIABLE: str(tmp_path / "gone")})
