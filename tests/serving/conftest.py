"""Fixtures of the serving tests."""

import socket

import pytest


@pytest.fixture(scope="session")
def free_ports():
    """``free_ports(n)``: n ports of the loopback interface that nothing listens on."""

    def get(count: int = 1) -> list[int]:
        sockets = [socket.socket() for _ in range(count)]  # all open at once, so that no port is given twice
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return ports

    return get
