"""An endpoint on a real socket that answers what it is told to, byte for byte, or does worse."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode() + body


class Endpoint:
    """`says` is sent as it is, or called with the connection; `requests` is what was asked."""

    def __init__(self, says: bytes | Callable[[socket.socket], None] = b"", tls: ssl.SSLContext | None = None) -> None:
        self.says = says
        self.requests: list[bytes] = []
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._socket.accept()[0],), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                self.requests.append(connection.recv(65536))
                if callable(self.says):
                    self.says(connection)
                else:
                    connection.sendall(self.says)
