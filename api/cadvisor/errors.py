"""What goes wrong in a request of cAdvisor's API: its texts, with the status that says what is the matter."""

from enum import IntEnum


class Status(IntEnum):
    BAD_REQUEST = 400
    NOT_FOUND = 404
    FAILED = 500
    UNAVAILABLE = 503
    TIMED_OUT = 504


class ApiError(Exception):
    """The text is cAdvisor's. `is_discovery`: one of the two answers that list what there is, 400 there too."""

    def __init__(self, text: str, status: Status, is_discovery: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.is_discovery = is_discovery

    def status_for(self, is_strict: bool) -> int:
        """cAdvisor says 500 to everything but the lists of what there is."""
        return int(Status.FAILED) if is_strict and not self.is_discovery and self.status < Status.FAILED else int(self.status)
