"""One real server for all tests of the nodes; without a host they are skipped, and say why."""

import pytest

from .server import Server, find_host


@pytest.fixture(scope="session")
def host():
    """ComfyUI's folder."""
    try:
        return find_host()
    except FileNotFoundError as error:
        pytest.skip(f"the nodes need a ComfyUI to run in: {error}")


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    """A running server with the pack; its log is kept in `server.log()`."""
    with Server(host, tmp_path_factory.mktemp("comfy")) as running:
        yield running
