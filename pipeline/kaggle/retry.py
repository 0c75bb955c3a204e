"""How long to wait for a server, how often to ask again, and where a redirect may lead."""

import contextlib
import dataclasses
import logging
import random
import socket
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InvalidHeader, MaxRetryError, ResponseError

from pipeline.support.errors import say

# Worth asking again: rate limit and failures of the server (RFC 9110, RFC 6585), and those of
# Cloudflare's, which stands before many sites
# (https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/).
PASSING = frozenset({408, 429, 500, 502, 503, 504, *range(520, 525)})

_HEADER = 120.0  # seconds that an answer's header may take once the request is sent

# A TLS connection that was cut, which may pass; every other error of TLS stays.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """Waiting times in seconds; pauses double from `first_pause` to `longest_pause`.

    `read` is the longest silence, not the length of an answer: a download may take hours. It
    is broken off, to be gone on with, where `window` seconds bring less than `slowest` bytes a
    second.
    """

    attempts: int = 6
    first_pause: float = 2.0
    longest_pause: float = 60.0
    connect: float = 15.0
    read: float = 60.0
    window: float = 120.0
    slowest: float = 1000.0
    poll: float = 5.0  # between two looks at a pending score
    score: float = 1800.0  # for a score, in all
    confirm: float = 30.0  # for a submission whose reply was lost to appear in the list

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; spread, so that clients part."""
        pause: float = min(self.first_pause * 2 ** (failures - 1), self.longest_pause)
        return pause * random.uniform(1.0, 1.25)


class RefusedRedirect(requests.RequestException):
    """A server sent us where we do not go; the message says where."""


class RetryAdapter(HTTPAdapter):
    """Gives every request of a session a time-out, and repeats it where that can help.

    Repeated are answers that may pass (after `Retry-After`), and lost connections. A redirect
    from https to http is refused, before `requests` follows it.
    """

    def __init__(self, policy: RetryPolicy, attempts: int | None = None) -> None:
        """As the policy says, but for the number of `attempts`; 1: nothing is sent twice."""
        retries = _Retry(
            total=(attempts or policy.attempts) - 1,
            allowed_methods=None,  # Kaggle's calls are all POST
            status_forcelist=PASSING,
            raise_on_status=False,  # the last answer is the caller's
            backoff_factor=policy.first_pause,
            backoff_jitter=policy.first_pause,
            backoff_max=policy.longest_pause,
        )
        super().__init__(max_retries=retries)
        # Its warnings hold whole addresses, signatures and all.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._timeout = (policy.connect, policy.read)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Let connections hang up, see `_HangsUp`."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> urllib3.ProxyManager:
        """As `init_poolmanager`, where a proxy is in between."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: object = None,
        verify: bool | str = True,
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send as `HTTPAdapter.send` does; see the class.

        Raises:
            RefusedRedirect: the answer leads from https to http, or to no address at all.
        """
        response = super().send(request, stream, self._timeout, verify, cert, proxies)  # type: ignore[arg-type]
        if response.is_redirect:
            _check_redirect(str(request.url), response)
        return response


class _HangsUp(HTTPConnection):
    """A connection that is closed where an answer's header does not end in time.

    http.client reads header lines, and answers 1xx that only say wait, for as long as they come.
    """

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        timer = threading.Timer(_HEADER, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _HangsUpTLS(_HangsUp, HTTPSConnection):
    """The same under TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HangsUp


class _PoolTLS(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HangsUpTLS


_POOLS = {"http": _Pool, "https": _PoolTLS}


class _Retry(urllib3.Retry):
    """urllib3's rule, with a line for every new try and none where trying again is no use."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: urllib3.connectionpool.ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """Count a failure, say when the next try comes, or raise where none does."""
        if error is not None and is_refused_tls(error):
            raise error
        pause = self.get_retry_after(response) if response is not None else None
        if pause and pause > 2 * self.backoff_max and _pool is not None:
            # Too long to sit here: the caller says how long the server wants us to wait.
            raise MaxRetryError(_pool, "", ResponseError("a long Retry-After"))
        fresh = super().increment(method, url, response, error, _pool, _stacktrace)
        host = urlsplit(url or "").hostname or (_pool.host if _pool else "the server")
        problem = f"answer {response.status}" if response is not None else "no answer"
        problem += f" ({_reason(error)})" if error is not None else ""
        pause = pause or fresh.get_backoff_time()
        say(f"{host}: {problem}; next try {f'in {pause:.0f} s' if pause else 'at once'}")
        return fresh

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        """Seconds the server asks to wait, None where it names none that can be read."""
        try:
            return super().get_retry_after(response)
        except InvalidHeader:
            return None


def is_refused_tls(error: BaseException) -> bool:
    """Whether TLS itself failed (a certificate, a server without TLS), not the connection."""
    inner: object = error
    while isinstance(inner, BaseException) and not isinstance(inner, ssl.SSLError):
        inner = getattr(inner, "reason", None) or next(iter(inner.args), None)
    return isinstance(inner, ssl.SSLError) and not isinstance(inner, _CUT)


def _check_redirect(url: str, response: requests.Response) -> None:
    """Refuse what leads to no address, or from https to where all can read along."""
    host = urlsplit(url).hostname
    try:
        target = urlsplit(urljoin(url, response.headers["Location"]))
        place = f"{target.scheme}://{target.hostname}"
    except ValueError:
        response.close()
        raise RefusedRedirect(f"{host} redirects to what is no address") from None
    if url.lower().startswith("https:") and target.scheme != "https":
        response.close()
        raise RefusedRedirect(
            f"{host} redirects from https to {place}, where others could read along; look for a "
            "proxy or a login page in between"
        )


def _reason(error: BaseException) -> str:
    """The innermost reason of a nested network error, on one line."""
    last: object = error
    while isinstance(last, BaseException):
        error, last = last, last.args[-1] if last.args else None
    return " ".join(str(last or "").rpartition(": ")[2].split()) or type(error).__name__
