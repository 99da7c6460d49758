"""tidegauge in a container, asked from outside it."""

import time
import urllib.error
import urllib.request
from typing import Any

START_TIMEOUT_S = 60.0


def get(url: str) -> tuple[int, str]:
    """Status and text; (0, reason) if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()
    except OSError as exc:
        return 0, str(exc)


def wait_until_well(container: Any) -> str:
    """URL of the published port, once /healthz is 200 there; AssertionError with the log if the container ends or time is up.

    Nothing is executed in the container: an `exec` into one that ends just then never comes back.
    """
    answer = (0, "not asked")
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        container.reload()
        assert container.status == "running", container.logs().decode()
        if ports := container.ports.get("4194/tcp"):
            url = f"http://127.0.0.1:{ports[0]['HostPort']}"
            if (answer := get(f"{url}/healthz"))[0] == 200:
                return url
        time.sleep(0.1)
    raise AssertionError(f"/healthz: {answer}\n{container.logs().decode()}")
