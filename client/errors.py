"""What can go wrong, a type for each that a caller would treat differently.

    ClientError
     ├─ ConnectionFailed      no answer: nobody listens, TLS fails, the connection broke off
     │   └─ TimedOut          nothing came for so long
     ├─ HttpError             an answer that is no success; `status` and `text` say which
     └─ WrongAnswer           a success that cannot be what was asked for; `path` names the field
         └─ AnswerTooLarge    larger than `limit_bytes`

Each has the `url` that was asked. Credentials are in none of them.
"""


class ClientError(Exception):
    """Whatever a request ends in but its answer."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(f"{url}: {what}")
        self.url = url


class ConnectionFailed(ClientError):
    """There is no answer, or not the whole of it."""


class TimedOut(ConnectionFailed):
    """Nothing came within the time, or not all of it."""


class HttpError(ClientError):
    """An answer other than 200. cAdvisor says 500 to whatever it cannot answer, an unknown container too: see `text`."""

    def __init__(self, url: str, status: int, text: str) -> None:
        super().__init__(url, f"HTTP {status}" + (f": {text}" if text else ""))
        self.status = status
        self.text = text
        """Body of the answer, cut at 1000 characters."""


class WrongAnswer(ClientError):
    """The body is not JSON, or not of the shape that the documentation says."""

    def __init__(self, url: str, what: str, path: str = "") -> None:
        super().__init__(url, what)
        self.path = path
        """Of the field, as `$.stats[0].cpu.usage.total`; empty where it is not one field."""


class AnswerTooLarge(WrongAnswer):
    """More than `limit_bytes`; ask for fewer samples or containers."""
