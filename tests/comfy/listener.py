"""What a server says over its websocket. Nothing but the standard library: text messages, and no more, are read."""

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from .server import Server

TEXT, CLOSE = 1, 8


class Listener:
    """A page's connection, as a context; it hears what is sent to the server's `client`."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws?clientId={server.client} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline().strip():
            pass

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()

    def messages(self, timeout: float = 120) -> Iterator[dict[str, Any]]:
        """Every JSON message as it comes.

        Raises:
            TimeoutError: they have not ended in time; only whoever listens knows which is the last.
        """
        deadline = time.monotonic() + timeout
        self.socket.settimeout(timeout)
        while time.monotonic() < deadline:
            first, second = self.stream.read(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(self.stream.read(2 if size == 126 else 8), "big")
            body = self.stream.read(size)
            if first & 15 == CLOSE:
                return
            if first & 15 == TEXT:
                yield json.loads(body)
        raise TimeoutError(f"the messages did not end within {timeout} s")
