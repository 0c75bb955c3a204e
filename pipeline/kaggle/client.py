"""The `kaggle` package: imported quietly, signed in, with a session that tries again.

It is imported when it is first needed: that prints a help text, closes the standard input and
signs in over the network without a time-out. Here it does none of these.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import requests

from pipeline.kaggle import answers
from pipeline.kaggle.retry import RetryAdapter
from pipeline.support.errors import UserError


def api(adapter: RetryAdapter) -> Any:
    """The client's object, all of whose requests go through `adapter`."""
    with _silent(), _offline():
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
        except OSError as error:  # it makes its settings folder while it is imported
            raise UserError(
                f"the kaggle client cannot make its settings folder ({error}); "
                "set KAGGLE_CONFIG_DIR to a folder that can be written"
            ) from None

    class Api(KaggleApi):  # type: ignore[misc]
        """The client with our session, and without its remark about newer versions."""

        def build_kaggle_client(self) -> Any:
            client = super().build_kaggle_client()
            http = client.http_client()
            http._init_session()  # the only way to the session before the first request
            for scheme in ("http://", "https://"):
                http._session.mount(scheme, adapter)
            http._session.headers["Accept-Encoding"] = "identity"  # lengths and hashes count
            return client

        def get_response_processor(self) -> None:
            return None

    return Api()


def sign_in(api: Any) -> str:
    """Let the client find credentials; return whose they are and where they were found.

    Raises:
        UserError: there are none, or Kaggle does not know them.
    """
    from kagglesdk import get_access_token_from_env  # type: ignore[import-untyped]

    token, source = get_access_token_from_env()
    asked = answers.Request("Kaggle", answers.TOKENS, "the token", source or "")
    signed_in = True
    with _silent():
        try:
            api.authenticate()
        except SystemExit:  # its way to say that nothing was found
            signed_in = False
        except requests.RequestException as error:
            raise answers.explained(error, asked) from None
    method = str(api.config_values.get("auth_method", ""))
    if token and "ACCESS_TOKEN" not in method.upper():
        hidden = f"; it also hides the key of {_key_source(api)}" if signed_in else ""
        raise UserError(
            f"{_token_source(source)}: Kaggle does not know this token (expired, revoked or "
            f"mistyped){hidden}: remove it, or {answers.WHERE_TO_PUT}"
        )
    if not signed_in:
        raise UserError(
            f"found no Kaggle credentials: {answers.WHERE_TO_PUT}; an older key works as "
            f"KAGGLE_USERNAME and KAGGLE_KEY or in {api.config}"
        )
    name = api.config_values.get("username", "the user")
    return f"{name} ({_token_source(source) if token else _key_source(api)})"


def _token_source(source: str | None) -> str:
    return "~/.kaggle/access_token" if source == "access_token" else str(source)


def _key_source(api: Any) -> str:
    for name in ("KAGGLE_TOKEN", "KAGGLE_KEY"):
        if os.environ.get(name):
            return name
    return str(api.config) if os.path.exists(api.config) else "kaggle auth login"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Swallow the client's help text, and keep it from closing the real standard input."""
    real = sys.stdin
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.stdin = real


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Make requests fail at once: importing the client signs in, without a time-out.

    A proxy without a host is refused by `requests` before anything is sent. VERBOSE would
    make the client print the credentials and read whole downloads into memory.
    """
    changes = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://")
    changes |= dict.fromkeys(("no_proxy", "NO_PROXY", "VERBOSE", "VERBOSE_OUTPUT"), "")
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
