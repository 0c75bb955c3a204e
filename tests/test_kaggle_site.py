"""Signing in to Kaggle and being refused: what a user reads, with the real client."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kaggle_server
import pytest
import requests
import yaml
from conftest import write_yaml
from kaggle_server import COMPETITION, TOKEN, Blob, KaggleServer, zipped

from pipeline.kaggle import account as kaggle_account
from pipeline.kaggle import answers
from pipeline.kaggle.retry import RetryAdapter, RetryPolicy
from pipeline.support.errors import UserError

ROOT = Path(__file__).parent.parent
QUICK = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, connect=1, read=0.5)
DATA = zipped({"a.csv": b"a,b\n"})
KEY = {"username": "alice", "key": "secret"}


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


def download(
    server: KaggleServer, home: Path, token: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the stage as a user does, in this home and with these variables."""
    content = yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())
    content["download"] = {
        "kind": "competition", "slug": COMPETITION, "files": ["train.zip"], "optional_files": [],
    }  # fmt: skip
    write_yaml(home / "recipes/tiny.yaml", content)
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "download", "tiny", "--at", f"raw={home / 'raw'}"],
        cwd=home, capture_output=True, text=True,
        env={**kaggle_server.environment(server, home, token), **variables},
    )  # fmt: skip


def refusal(run: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command says."""
    lines = run.stderr.splitlines()
    assert run.returncode == 1 and run.stdout == "", (run.stdout, run.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), run.stderr
    return lines[0]


def test_no_credentials(server: KaggleServer, tmp_path: Path) -> None:
    text = refusal(download(server, tmp_path))
    for fact in (
        "no Kaggle credentials", "https://www.kaggle.com/settings/api", "KAGGLE_API_TOKEN",
        "~/.kaggle/access_token", "KAGGLE_USERNAME", "KAGGLE_KEY", "kaggle.json",
    ):  # fmt: skip
        assert fact in text
    assert not server.log


@pytest.mark.parametrize("place", ["variable", "file", "file named by the variable"])
def test_a_token(server: KaggleServer, tmp_path: Path, place: str) -> None:
    file = tmp_path / (".kaggle/access_token" if place == "file" else "token")
    file.parent.mkdir(exist_ok=True)
    file.write_text(TOKEN)
    token = {"variable": TOKEN, "file": None}.get(place, str(file))
    run = download(server, tmp_path, token)
    assert run.returncode == 0, run.stderr
    assert server.log[0].startswith("POST IntrospectToken")
    assert server.log[1] == f"POST ListDataFiles Bearer {TOKEN}"


@pytest.mark.parametrize("place", ["variables", "home", "config dir", "XDG"])
def test_a_key(server: KaggleServer, tmp_path: Path, place: str) -> None:
    folder = {"home": ".kaggle", "config dir": "there", "XDG": "x/kaggle"}.get(place)
    variables = {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": "secret"} if folder is None else {}
    if folder:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "kaggle.json").write_text(json.dumps(KEY))
    if place == "config dir":
        variables = {"KAGGLE_CONFIG_DIR": str(tmp_path / "there")}
    run = download(server, tmp_path, **variables)
    assert run.returncode == 0, run.stderr
    said = f"{tmp_path}/raw/train.zip: {len(DATA)} bytes, linked from data/archives/competitions"
    assert run.stdout == f"{said}/{COMPETITION}/train.zip\n", "the client is silent"
    assert server.log[0].startswith("POST ListDataFiles Basic ")


def test_a_bad_token(server: KaggleServer, tmp_path: Path) -> None:
    text = refusal(download(server, tmp_path, "KGAT_old"))
    assert "KAGGLE_API_TOKEN: Kaggle does not know this token" in text
    assert "https://www.kaggle.com/settings/api" in text and "KGAT_old" not in text


def test_a_bad_token_that_hides_a_good_key(server: KaggleServer, tmp_path: Path) -> None:
    """The client would sign in with the key and send the token: 401 without a reason."""
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text(json.dumps(KEY))
    text = refusal(download(server, tmp_path, "KGAT_old"))
    assert "KAGGLE_API_TOKEN: Kaggle does not know this token" in text
    assert f"hides the key of {tmp_path}/.kaggle/kaggle.json: remove it" in text
    assert not server.count("ListDataFiles")


def test_a_bad_key(server: KaggleServer, tmp_path: Path) -> None:
    text = refusal(download(server, tmp_path, KAGGLE_USERNAME="alice", KAGGLE_KEY="old"))
    assert "401 (Unauthenticated)" in text and "alice (KAGGLE_KEY)" in text
    assert "https://www.kaggle.com/settings/api" in text


def test_rules_not_accepted(server: KaggleServer, tmp_path: Path) -> None:
    server.rules_accepted = False
    text = refusal(download(server, tmp_path, TOKEN))
    assert f"https://www.kaggle.com/competitions/{COMPETITION}/rules" in text
    assert "403" in text and kaggle_server.RULES in text and "sign in as alice" in text
    assert not list((tmp_path / "raw").iterdir())


def test_rules_not_accepted_told_in_another_form(server: KaggleServer, tmp_path: Path) -> None:
    nested = {"error": {"code": 403, "message": "Permission denied", "status": "DENIED"}}
    server.api_faults["DownloadDataFile"] = [lambda: (403, nested, {})]
    text = refusal(download(server, tmp_path, TOKEN))
    assert "train.zip: Kaggle answered 403 (Permission denied); open https://www.kaggle.com" in text


def test_verbose_tells_no_secret(server: KaggleServer, tmp_path: Path) -> None:
    run = download(server, tmp_path, TOKEN, VERBOSE="1")
    assert run.returncode == 0 and TOKEN not in run.stdout + run.stderr


def test_a_settings_folder_that_cannot_be_made(server: KaggleServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = refusal(download(server, tmp_path, TOKEN, KAGGLE_CONFIG_DIR=f"{tmp_path}/file/x"))
    assert "set KAGGLE_CONFIG_DIR" in text


def test_the_client_is_imported_late_quietly_and_offline(
    server: KaggleServer, tmp_path: Path
) -> None:
    code = """
import sys
from pipeline import download, submit
from pipeline.support.errors import UserError
from pipeline.kaggle.retry import RetryPolicy, RetryAdapter
assert not any(name.split(".")[0].startswith("kaggle") for name in sys.modules)
from pipeline.kaggle import client as kaggle_client
kaggle_client.api(RetryAdapter(RetryPolicy()))
assert "kaggle" in sys.modules
assert not sys.stdin.closed and sys.stdin.read() == "typed"
"""
    for token in (TOKEN, None):
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, input="typed",
            env=kaggle_server.environment(server, tmp_path, token),
        )  # fmt: skip
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not server.log, "a request at import has no time-out"


def test_a_submission_is_asked_for_once(server: KaggleServer) -> None:
    server.api_faults["CreateSubmission"] = ["drop"] * 9
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(kaggle_account.Unconfirmed),
    ):
        account.create_submission(COMPETITION, "upload0", "text")
    assert server.count("POST CreateSubmission") == 1


def test_other_calls_are_repeated(server: KaggleServer) -> None:
    server.api_faults["ListSubmissions"] = ["drop", "stall"]
    with kaggle_account.connect(QUICK) as account:
        assert list(account.submissions(COMPETITION)) == []
    assert server.count("POST ListSubmissions") == 3


def test_a_status_the_client_does_not_know(server: KaggleServer) -> None:
    strange = {"submissions": [{"ref": 1, "status": "REVIEWED"}]}
    server.api_faults["ListSubmissions"] = [lambda: (200, strange, {})]
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(UserError, match="cannot be read.*pip install -U kaggle"),
    ):
        list(account.submissions(COMPETITION))


def test_pauses_grow_and_end() -> None:
    policy = RetryPolicy(first_pause=2, longest_pause=60)
    pauses = [policy.pause(failures) for failures in range(1, 12)]
    assert all(2 ** (i + 1) <= pause <= 2 ** (i + 1) * 1.25 for i, pause in enumerate(pauses[:5]))
    assert all(60 <= pause <= 75 for pause in pauses[5:])


def test_a_certificate_is_not_asked_for_twice(server: KaggleServer) -> None:
    """An error of TLS is told at once, with what to set."""
    error = requests.exceptions.SSLError("certificate verify failed")
    error.request = requests.Request("GET", "https://api.kaggle.com/v1").prepare()
    request = answers.Request("train.zip", "page", "setting", "alice")
    assert "api.kaggle.com: the certificate" in str(answers.explained(error, request))
    with requests.Session() as session:  # this server speaks no TLS
        session.trust_env = False
        session.mount("https://", RetryAdapter(QUICK))
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url.replace("http:", "https:"))
