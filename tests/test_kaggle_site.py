"""Signing in to Kaggle and being refused: what a user reads, and that no secret is in it."""

import base64
import dataclasses
import datetime
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kaggle_server
import pytest
import requests
import yaml
from conftest import run_verb, write_yaml
from kaggle_server import COMPETITION, KEY, TOKEN, Blob, KaggleServer, zipped
from requests.adapters import HTTPAdapter

from pipeline.kaggle import account as kaggle_account
from pipeline.kaggle.retry import RefusedRedirect, RetryAdapter, RetryPolicy
from pipeline.support.errors import UserError

ROOT = Path(__file__).parent.parent
QUICK = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, connect=1, read=0.5)
DATA = zipped({"a.csv": b"a,b\n"})
OLDER = {"username": "alice", "key": KEY}
Ended = subprocess.CompletedProcess[str]
Download = Callable[..., Ended]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """The folder of a recipe: what lies beside it is looked through, and is no other test's."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with kaggle_server.serving(tmp_path, monkeypatch) as server:
        server.competitions[COMPETITION] = {"train.zip": Blob(DATA)}
        yield server


@pytest.fixture
def download(server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    """The command `download` in this home, with this token and other variables."""
    content = yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())
    content["download"] = {
        "kind": "competition", "slug": COMPETITION, "files": ["train.zip"], "optional_files": [],
    }  # fmt: skip
    write_yaml(tmp_path / "recipes/tiny.yaml", content)

    def run(token: str | None = None, **variables: str) -> Ended:
        monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
        for name, value in ({"KAGGLE_API_TOKEN": token} if token else {} | variables).items():
            monkeypatch.setenv(name, value)
        return run_verb("download", "tiny", "--at", f"raw={tmp_path / 'raw'}", at=tmp_path)

    return run


def private(path: Path, content: str | bytes) -> Path:
    """Write a file of credentials as it should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(ended: Ended) -> str:
    """The one line that a refused command says."""
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1 and ended.stdout == "", (ended.stdout, ended.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.stderr
    return lines[0]


def test_no_credentials(server: KaggleServer, download: Download) -> None:
    text = refusal(download())
    for fact in (
        "no Kaggle credentials", "https://www.kaggle.com/settings/api", "KAGGLE_API_TOKEN",
        "~/.kaggle/access_token", "KAGGLE_USERNAME", "KAGGLE_KEY", "kaggle.json",
    ):  # fmt: skip
        assert fact in text
    assert not server.log


@pytest.mark.parametrize("place", ["variable", "file", "file.txt", "file named by the variable"])
@pytest.mark.parametrize("around", ["", "\r\n", " \n"])
def test_a_token(
    server: KaggleServer, tmp_path: Path, download: Download, place: str, around: str
) -> None:
    names = {"file": ".kaggle/access_token", "file.txt": ".kaggle/access_token.txt"}
    file = private(tmp_path / names.get(place, "token"), f"{around}{TOKEN}{around}")
    tokens = {"variable": f"{TOKEN}{around}", "file named by the variable": str(file)}
    ended = download(tokens.get(place))
    assert (ended.returncode, ended.stderr.count("chmod")) == (0, 0), ended.stderr
    assert server.log[0].startswith("POST IntrospectToken")
    assert server.log[1] == f"POST ListDataFiles Bearer {TOKEN}"


@pytest.mark.parametrize("place", ["variables", "home", "config dir", "XDG"])
def test_an_older_key(server: KaggleServer, tmp_path: Path, download: Download, place: str) -> None:
    folder = {"home": ".kaggle", "config dir": "there", "XDG": "x/kaggle"}.get(place)
    variables = {} if folder else {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": f" {KEY}\n"}
    if folder:
        private(tmp_path / folder / "kaggle.json", b"\xef\xbb\xbf" + json.dumps(OLDER).encode())
    if place == "config dir":
        variables = {"KAGGLE_CONFIG_DIR": str(tmp_path / "there")}
    ended = download(**variables)
    assert ended.returncode == 0, ended.stderr
    said = f"{tmp_path}/raw/train.zip: {len(DATA)} bytes, linked from data/archives/competitions"
    assert ended.stdout == f"{said}/{COMPETITION}/train.zip\n"
    assert server.log[0].startswith("POST ListDataFiles Basic ")


def test_a_bad_token(server: KaggleServer, download: Download) -> None:
    text = refusal(download("KGAT_old"))
    assert "KAGGLE_API_TOKEN: Kaggle does not know this token" in text
    assert "https://www.kaggle.com/settings/api" in text and "KGAT_old" not in text


def test_a_bad_token_that_hides_a_good_key(
    server: KaggleServer, tmp_path: Path, download: Download
) -> None:
    """Kaggle's client would sign in with the key and send the token: 401 without a reason."""
    private(tmp_path / ".kaggle/kaggle.json", json.dumps(OLDER))
    text = refusal(download("KGAT_old"))
    assert "KAGGLE_API_TOKEN: Kaggle does not know this token" in text
    assert f"hides the key of {tmp_path}/.kaggle/kaggle.json: remove it" in text
    assert not server.count("ListDataFiles")


def test_a_bad_key(server: KaggleServer, download: Download) -> None:
    text = refusal(download(KAGGLE_USERNAME="alice", KAGGLE_KEY="an-old-key"))
    assert "401 (Unauthenticated)" in text and "alice (KAGGLE_KEY)" in text
    assert "https://www.kaggle.com/settings/api" in text and "an-old-key" not in text


def test_the_sign_in_of_kaggles_command(
    server: KaggleServer, tmp_path: Path, download: Download
) -> None:
    """`kaggle auth login` leaves a token that runs out, and one to renew it with."""
    left = {"refresh_token": "KGRT_refresh", "username": "alice"}
    file = private(tmp_path / ".kaggle/credentials.json", json.dumps(left))
    server.api_faults["GenerateAccessToken"] = [lambda: (200, {"token": TOKEN}, {})]
    ended = download()
    assert ended.returncode == 0, ended.stderr
    assert server.log[-2] == f"POST DownloadDataFile Bearer {TOKEN}"
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "raw/train.zip").unlink()
    just_now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    ran_out = {"access_token": "KGAT_ran_out", "access_token_expiration": just_now.isoformat()}
    file.write_text(json.dumps(left | ran_out))
    server.api_faults["GenerateAccessToken"] = [lambda: (200, {"token": TOKEN}, {})]
    assert download().returncode == 0 and server.log[-2].endswith(TOKEN)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "raw/train.zip").unlink()
    file.write_text(json.dumps(left | {"refresh_token": ""}))
    assert f"{file}: found an empty refresh_token; run kaggle auth" in refusal(download())
    file.write_text("{")
    assert f"{file}: line 1, column 2: no JSON" in refusal(download())
    file.write_text(json.dumps({**left, "access_token_expiration": "soon"}))
    assert f"{file}: Invalid isoformat string: 'soon'; run kaggle auth" in refusal(download())
    file.write_text(json.dumps(left))
    server.api_faults["GenerateAccessToken"] = [lambda: (401, {"code": 401, "message": "No"}, {})]
    text = refusal(download())
    assert "401 (No)" in text and f"{file} (run kaggle auth login again)" in text
    assert left["refresh_token"] not in text


@pytest.mark.parametrize(
    ("variables", "place", "name"),
    [
        ({"KAGGLE_API_TOKEN": "KGAT_abc\ndef"}, "KAGGLE_API_TOKEN: character 9", "U+000A"),
        ({"KAGGLE_API_TOKEN": "KGAT_abc\rdef"}, "KAGGLE_API_TOKEN: character 9", "U+000D"),
        ({"KAGGLE_API_TOKEN": "KGAT abcdef"}, "KAGGLE_API_TOKEN: character 5", "SPACE"),
        ({"KAGGLE_API_TOKEN": "abc\udce9def"}, "KAGGLE_API_TOKEN: character 4", "U+DCE9"),
        (
            {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": "abcdef\N{RIGHT DOUBLE QUOTATION MARK}"},
            "KAGGLE_KEY: character 7",
            "RIGHT DOUBLE QUOTATION MARK",
        ),
    ],
)
def test_impossible_characters(
    server: KaggleServer, download: Download, variables: dict[str, str], place: str, name: str
) -> None:
    text = refusal(download(**variables))
    assert f"{place} is {name}, expected printable ASCII" in text
    assert "abc" not in text and "def" not in text and not server.log


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"username": "alice",', "line 1, column 22: no JSON"),
        (b"[]", "found a list"),
        (b'{"username": "alice", "key": 5}', "found no text 'key'"),
        ('{"username": "é"'.encode("latin-1"), "found no UTF-8"),
        ('{"username"}'.encode("utf-16"), "found no UTF-8"),
    ],
)
def test_a_broken_file(
    server: KaggleServer, tmp_path: Path, download: Download, content: bytes, words: str
) -> None:
    file = private(tmp_path / ".kaggle/kaggle.json", content)
    assert refusal(download()).startswith(f"error: {file}: {words}")
    assert not server.log


@pytest.mark.parametrize("name", ["access_token", "kaggle.json"])
def test_a_file_that_others_can_read(
    server: KaggleServer, tmp_path: Path, download: Download, name: str
) -> None:
    content = TOKEN if name == "access_token" else json.dumps(OLDER)
    file = private(tmp_path / ".kaggle" / name, content)
    file.chmod(0o644)
    ended = download()
    assert ended.returncode == 0
    assert ended.stderr.startswith(f"{file}: other users of this machine can read it; run chmod")


def test_rules_not_accepted(server: KaggleServer, tmp_path: Path, download: Download) -> None:
    server.rules_accepted = False
    text = refusal(download(TOKEN))
    assert f"https://www.kaggle.com/competitions/{COMPETITION}/rules" in text
    assert "403" in text and kaggle_server.RULES in text and "sign in as alice" in text
    assert not list((tmp_path / "raw").iterdir())


def test_rules_not_accepted_told_in_another_form(server: KaggleServer, download: Download) -> None:
    nested = {"error": {"code": 403, "message": "Permission denied", "status": "DENIED"}}
    server.api_faults["DownloadDataFile"] = [lambda: (403, nested, {})]
    text = refusal(download(TOKEN))
    assert "train.zip: Kaggle answered 403 (Permission denied); open https://www.kaggle.com" in text


def test_nothing_is_printed_by_the_client(server: KaggleServer, download: Download) -> None:
    ended = download(TOKEN, VERBOSE="1", VERBOSE_OUTPUT="1")
    assert ended.returncode == 0 and TOKEN not in ended.stdout + ended.stderr
    assert len(ended.stdout.splitlines()) == 1


def test_the_client_is_imported_late_and_reads_nothing_by_itself(
    server: KaggleServer, tmp_path: Path
) -> None:
    code = """
import sys
from pipeline import submit
from pipeline.download import stage
from pipeline.kaggle import account
from pipeline.kaggle.retry import RetryPolicy
from pipeline.support.errors import UserError
assert not any(name.startswith("kaggle") for name in sys.modules)
try:
    with account.connect(RetryPolicy()):
        pass
except UserError:
    pass
assert "kagglesdk" in sys.modules and "kaggle" not in sys.modules
assert sys.stdin.read() == "typed"
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, input="typed",
        env=kaggle_server.environment(server, tmp_path, None),
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not server.log and not list(tmp_path.iterdir())


def test_a_submission_is_asked_for_once(server: KaggleServer) -> None:
    server.api_faults["CreateSubmission"] = ["drop"] * 9
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(kaggle_account.Unconfirmed),
    ):
        account.create_submission(COMPETITION, "upload0", "text")
    assert server.count("POST CreateSubmission") == 1


@pytest.mark.parametrize("code", [307, 308])
def test_a_redirect_of_a_submission_is_not_followed(server: KaggleServer, code: int) -> None:
    """It has been asked for, and may have been recorded."""
    again = {
        "Location": "http://localhost/api/v1/competitions.CompetitionApiService/CreateSubmission"
    }
    server.api_faults["CreateSubmission"] = [lambda: (code, None, again), "lost"]
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(kaggle_account.Unconfirmed, match=str(code)),
    ):
        account.create_submission(COMPETITION, "upload0", "text")
    assert server.count("POST CreateSubmission") == 1


def test_other_calls_are_repeated(server: KaggleServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.api_faults["ListSubmissions"] = ["drop", "stall"]
    with kaggle_account.connect(QUICK) as account:
        assert list(account.submissions(COMPETITION)) == []
    assert server.count("POST ListSubmissions") == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("localhost: no answer (") for line in lines)
    assert lines[0].endswith("; next try at once")


def test_a_body_that_breaks_is_asked_for_again(server: KaggleServer) -> None:
    server.api_faults["ListSubmissions"] = ["cut"]
    with kaggle_account.connect(QUICK) as account:
        assert list(account.submissions(COMPETITION)) == []
        server.api_faults["ListSubmissions"] = ["cut"] * 2
        with pytest.raises(UserError, match="no answer from localhost"):
            list(account.submissions(COMPETITION))


def test_an_answer_that_does_not_end(server: KaggleServer) -> None:
    """Every byte comes in time, and the last one never."""
    server.api_faults["ListSubmissions"] = ["drip"] * 9
    policy = dataclasses.replace(QUICK, window=0.3)
    started = time.monotonic()
    with (
        kaggle_account.connect(policy) as account,
        pytest.raises(UserError, match="no answer from localhost .Timeout"),
    ):
        list(account.submissions(COMPETITION))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("body", [None, {}])
@pytest.mark.parametrize("code", [429, 500, 503, 520, 522])
def test_a_failure_without_words_is_repeated(
    server: KaggleServer, code: int, body: dict[str, object] | None
) -> None:
    server.api_faults["ListSubmissions"] = [lambda: (code, body, {})] * 2
    with kaggle_account.connect(QUICK) as account:
        assert list(account.submissions(COMPETITION)) == []
        server.api_faults["ListSubmissions"] = [lambda: (code, body, {})] * 3
        with pytest.raises(UserError, match=f"Kaggle answered {code} "):
            list(account.submissions(COMPETITION))


@pytest.mark.parametrize("code", [429, 503])
def test_a_long_retry_after_is_told(server: KaggleServer, code: int) -> None:
    server.api_faults["ListSubmissions"] = [lambda: (code, None, {"Retry-After": "3600"})]
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(UserError, match=f"answered {code} .* 3600 s"),
    ):
        list(account.submissions(COMPETITION))
    assert server.count("POST ListSubmissions") == 1


@pytest.mark.parametrize("after", ["0", "soon"])
def test_a_retry_after_that_says_nothing(server: KaggleServer, after: str) -> None:
    server.api_faults["ListSubmissions"] = [lambda: (429, None, {"Retry-After": after})]
    with kaggle_account.connect(QUICK) as account:
        assert list(account.submissions(COMPETITION)) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"submissions": [{"ref": 1, "status": "REVIEWED"}]}, "cannot be read.*REVIEWED"),
        ({"submissions": 5}, "cannot be read"),
        ({"submissions": None}, "cannot be read"),
        ("page", "found a page of type text/html instead of Kaggle's answer"),
    ],
)
def test_an_answer_the_client_does_not_know(
    server: KaggleServer, answer: dict[str, object] | str, words: str
) -> None:
    server.api_faults["ListSubmissions"] = [
        answer if isinstance(answer, str) else lambda: (200, answer, {})
    ]
    with kaggle_account.connect(QUICK) as account, pytest.raises(UserError, match=words):
        list(account.submissions(COMPETITION))


def test_a_competition_without_files(server: KaggleServer) -> None:
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(UserError, match="found no file 'train.zip', expected some; it has none"),
    ):
        server.competitions[COMPETITION] = {}
        account.files(COMPETITION, ["train.zip"], [])


def test_a_listing_that_does_not_end(server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_account, "_PAGES", 5)
    server.api_faults["ListDataFiles"] = [
        lambda: (200, {"files": [], "nextPageToken": "more"}, {})
    ] * 6
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(UserError, match="listing does not end"),
    ):
        account.files(COMPETITION, ["train.zip"], [])


def test_a_missing_file_among_thousands(server: KaggleServer) -> None:
    server.competitions[COMPETITION] = {f"image_{i:04}.dcm": Blob(b"") for i in range(3000)}
    server.competitions[COMPETITION]["train.zip"] = Blob(DATA)
    with kaggle_account.connect(QUICK) as account, pytest.raises(UserError) as caught:
        account.files(COMPETITION, ["trian.zip"], [])
    assert "train.zip" in str(caught.value) and "3,001 files" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_pauses_grow_and_end() -> None:
    policy = RetryPolicy(first_pause=2, longest_pause=60)
    pauses = [policy.pause(failures) for failures in range(1, 12)]
    assert all(2 ** (i + 1) <= pause <= 2 ** (i + 1) * 1.25 for i, pause in enumerate(pauses[:5]))
    assert all(60 <= pause <= 75 for pause in pauses[5:])


def get(url: str, policy: RetryPolicy = QUICK) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, RetryAdapter(policy))
        return session.get(url)


def test_a_server_without_tls_is_asked_once(server: KaggleServer) -> None:
    with pytest.raises(requests.exceptions.SSLError) as caught:
        get(server.url.replace("http:", "https:"))
    asked = kaggle_account._Asked("train.zip", "page", "setting", "alice")
    assert "127.0.0.1: the certificate is not accepted" in str(asked.explained(caught.value))


def test_a_handshake_that_is_cut_is_repeated() -> None:
    """No word about certificates: the connection broke."""
    asked = kaggle_account._Asked("train.zip", "page", "setting", "alice")
    cuts = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def cut() -> None:
            for _ in range(QUICK.attempts):
                connection, _ = listening.accept()
                with connection:
                    cuts.append(len(connection.recv(1 << 16)))

        thread = threading.Thread(target=cut, daemon=True)
        thread.start()
        with pytest.raises(requests.RequestException) as caught:
            get(f"https://127.0.0.1:{listening.getsockname()[1]}/file?X-Signature=1")
        thread.join(5)
    assert len(cuts) == QUICK.attempts and all(cuts)
    assert "no answer from 127.0.0.1" in str(asked.explained(caught.value))


def test_a_connection_that_times_out_tells_no_signature(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the line about the next try, nor in what a library logs."""
    caplog.set_level("DEBUG")
    with socket.socket() as listening, socket.socket() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting.connect(listening.getsockname())  # the queue is full: whoever comes now waits
        with pytest.raises(requests.RequestException):
            get(
                f"http://127.0.0.1:{listening.getsockname()[1]}/file?X-Signature=abc",
                RetryPolicy(attempts=2, first_pause=0.01, connect=0.1, read=0.1),
            )
    err = capsys.readouterr().err + caplog.text
    assert "127.0.0.1: no answer (" in err and "Signature" not in err and "abc" not in err


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://storage.googleapis.com/file?sig=1", "from https to http://storage.googleapis"),
        ("http://[::bad", "what is no address"),
    ],
)
def test_a_redirect_that_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, location: str, words: str
) -> None:
    asked = []

    def send(self: HTTPAdapter, request: requests.PreparedRequest, *_: object) -> requests.Response:
        asked.append(request.url)
        response = requests.Response()
        response.status_code, response.request, response.url = 302, request, str(request.url)
        response.headers["Location"], response.raw = location, io.BytesIO()
        return response

    monkeypatch.setattr(HTTPAdapter, "send", send)
    with pytest.raises(RefusedRedirect, match=words) as caught:
        get("https://api.kaggle.com/v1/x")
    assert asked == ["https://api.kaggle.com/v1/x"] and "sig" not in str(caught.value)


def test_no_traceback_holds_a_secret(server: KaggleServer, tmp_path: Path) -> None:
    """Whatever goes wrong: a defect's traceback is shown without what was read as secret."""
    code = """
from pipeline.kaggle import credentials
from pipeline.support.errors import command

@command
def main():
    found = credentials.find()
    raise ValueError(f"{found!r} {found.key} {found.user}:{found.key}")

main()
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={
            **kaggle_server.environment(server, tmp_path, None),
            "KAGGLE_USERNAME": "alice", "KAGGLE_KEY": KEY,
        },
    )  # fmt: skip
    assert run.returncode == 1 and "ValueError" in run.stderr and "Traceback" in run.stderr
    sent = base64.b64encode(f"alice:{KEY}".encode()).decode()
    assert KEY not in run.stderr and sent not in run.stderr
