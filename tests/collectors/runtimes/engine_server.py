"""An engine on a real Unix socket that says what it is told to say: well, slowly, never, nonsense; it can be restarted."""

import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any


class EngineServer:
    """`containers` by id, as inspect has them. `hangs`: requests get no answer; `says`: they get this, whatever it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: dict[str, dict[str, Any]] = {}
        self.hangs = False
        self.says: bytes | None = None
        self.targets: list[str] = []
        self._changed = threading.Condition()
        self._events: list[bytes] = []
        self._streams = 0
        self._connections: set[socket.socket] = set()
        self._socket: socket.socket | None = None

    def start(self) -> "EngineServer":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen()
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()
        return self

    def stop(self) -> None:
        """As an engine that is killed: connections end, the socket's file stays and refuses."""
        listener, self._socket = self._socket, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._changed:
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def has(self, id_: str, name: str, **inspect: Any) -> None:
        state = {"Running": True, "Pid": 7, "StartedAt": "2026-11-23T11:16:03.694436864Z", **inspect.pop("State", {})}
        config = {"Image": "busybox:1", "Labels": {}, **inspect.pop("Config", {})}
        self.containers[id_] = {"Id": id_, "Name": f"/{name}", "State": state, "Config": config, **inspect}

    def tell(self, action: str, id_: str, **attributes: str) -> None:
        """An event for everybody who follows now."""
        self.flood(1, action, id_, **attributes)

    def flood(self, times: int, action: str, id_: str, **attributes: str) -> None:
        """The same event, many times at once."""
        event = {"Type": "container", "Action": action, "Actor": {"ID": id_, "Attributes": attributes}}
        with self._changed:
            self._events += [json.dumps(event).encode() + b"\n"] * times
            self._changed.notify_all()

    @property
    def followers(self) -> int:
        return self._streams

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                data = connection.recv(4096)
                if not data:
                    return
                request += data
            target = request.split()[1].decode()
            self.targets.append(target)
            if self.hangs:
                with self._changed:
                    self._changed.wait_for(lambda: not self.hangs or self._socket is None)
                return
            if self.says is not None:
                connection.sendall(self.says)
            elif target.startswith("/events"):
                self._stream(connection)
            else:
                status, body = self._answer(target)
                connection.sendall(b"HTTP/1.0 %s\r\nContent-Type: application/json\r\n\r\n" % status + body)
        self._connections.discard(connection)

    def _answer(self, target: str) -> tuple[bytes, bytes]:
        parts = target.partition("?")[0].strip("/").split("/")
        if parts == ["containers", "json"]:
            return b"200 OK", json.dumps([self._listed(c) for c in self.containers.values()]).encode()
        if len(parts) == 3 and parts[1] in self.containers:
            return b"200 OK", json.dumps(self.containers[parts[1]]).encode()
        return b"404 Not Found", b'{"message":"No such container"}'

    def _listed(self, c: dict[str, Any]) -> dict[str, Any]:
        health = c["State"].get("Health", {}).get("Status", "")
        status = "Up 2 minutes" + (f" ({health})" if health else "")
        names = {"Id": c["Id"], "Names": [c["Name"]], "Image": c["Config"]["Image"], "Labels": c["Config"]["Labels"]}
        return {**names, "State": "running", "Status": status}

    def _stream(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
        with self._changed:
            sent = len(self._events)
            self._streams += 1
        try:
            while self._socket is not None:
                with self._changed:
                    while len(self._events) == sent and self._socket is not None:
                        self._changed.wait()
                    fresh, sent = self._events[sent:], len(self._events)
                connection.sendall(b"".join(fresh))
        finally:
            self._streams -= 1
