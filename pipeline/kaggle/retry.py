"""How long to wait for a server, and how often to try again."""

import contextlib
import dataclasses
import random
import sys
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

# Worth asking again: rate limit and failures of the server (RFC 9110, RFC 6585).
_PASSING = frozenset({429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """Waiting times in seconds; pauses double from `first_pause` to `longest_pause`.

    `read` is the longest silence, not the length of an answer: a download may take hours.
    """

    attempts: int = 6
    first_pause: float = 2.0
    longest_pause: float = 60.0
    connect: float = 15.0
    read: float = 60.0
    poll: float = 5.0  # between two looks at a pending score
    score: float = 1800.0  # for a score, in all
    confirm: float = 30.0  # for a submission whose reply was lost to appear in the list

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; spread, so that clients part."""
        pause: float = min(self.first_pause * 2 ** (failures - 1), self.longest_pause)
        return pause * random.uniform(1.0, 1.25)


class RetryAdapter(HTTPAdapter):
    """Gives every request of a session a time-out, and repeats what may be repeated.

    Repeated are answers 429 (after `Retry-After`), 5xx and lost connections, except for
    requests whose path ends in one of `once`: those a server must not see twice.
    """

    def __init__(self, policy: RetryPolicy, once: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._policy = policy
        self._once = once
        self._headers: dict[str, str] = {}

    @contextlib.contextmanager
    def asking(self, headers: dict[str, str]) -> Iterator[None]:
        """Add headers to the GET requests of the block: not to the POSTs that lead to them."""
        self._headers = headers
        try:
            yield
        finally:
            self._headers = {}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: object = None,
        verify: bool | str = True,
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send as `HTTPAdapter.send` does; see the class."""
        if request.method == "GET":
            request.headers.update(self._headers)
        host, path = urlsplit(str(request.url)).hostname, urlsplit(str(request.url)).path
        attempts = 1 if path.endswith(self._once or ("\0",)) else self._policy.attempts
        for attempt in range(1, attempts + 1):
            try:
                response = self._send_once(request, stream, verify, cert, proxies)
            except requests.exceptions.SSLError:
                raise  # a certificate does not become right by waiting
            except _LOST as error:
                if attempt == attempts:
                    raise
                pause, problem = self._policy.pause(attempt), f"no answer ({_short(error)})"
            else:
                pause = self._wanted_pause(response, attempt)
                if response.status_code not in _PASSING or attempt == attempts:
                    return response
                if pause > self._policy.longest_pause * 2:
                    return response  # the caller says how long the server wants us to wait
                problem = f"answer {response.status_code}"
                response.close()
            print(f"{host}: {problem}; next try in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send_once(
        self,
        request: requests.PreparedRequest,
        stream: bool,
        verify: bool | str,
        cert: object,
        proxies: Mapping[str, str] | None,
    ) -> requests.Response:
        timeout = (self._policy.connect, self._policy.read)
        response = super().send(request, stream, timeout, verify, cert, proxies)  # type: ignore[arg-type]
        if not stream:
            response.content  # noqa: B018 - read it here, where a broken body is repeated
        return response

    def _wanted_pause(self, response: requests.Response, attempt: int) -> float:
        after = response.headers.get("Retry-After", "")
        return float(after) if after.isdigit() else self._policy.pause(attempt)


_LOST = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


def _short(error: BaseException) -> str:
    """The innermost reason of a nested network error, on one line."""
    text = str(error)
    return " ".join(text[text.rfind(":") + 1 :].strip(" ')\"").split()) or type(error).__name__
