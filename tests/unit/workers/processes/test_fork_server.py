"""What the fork server keeps of a request that is cut off: nothing."""

import json
import os
import socket

import pytest

from workers.processes.fork_server import _receive


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux lists them")
@pytest.mark.parametrize("sent", [b'{"module": "wor', b"no JSON\n", b""])
def test_a_request_that_is_cut_off_or_no_json_leaves_no_descriptor_open(sent: bytes) -> None:
    before = open_descriptors()
    asking, asked = socket.socketpair()
    with open(os.devnull, "rb") as file:
        if sent:
            socket.send_fds(asking, [sent], [file.fileno()])
        asking.shutdown(socket.SHUT_WR)
        assert _receive(asked) is None
    asking.close()
    assert open_descriptors() == before


def test_a_whole_request_comes_with_its_descriptor_however_it_is_cut() -> None:
    asking, asked = socket.socketpair()
    request = {"module": "m", "arguments": [], "environment": {}}
    line = json.dumps(request).encode() + b"\n"
    with asking, asked, open(os.devnull, "rb") as file:
        socket.send_fds(asking, [line[:5]], [file.fileno()])
        asking.sendall(line[5:])
        received = _receive(asked)
        assert received is not None
        found, descriptor = received
        assert found == request
        assert os.path.samestat(os.fstat(descriptor), os.fstat(file.fileno()))
        os.close(descriptor)
