"""Submitting to a Kaggle on 127.0.0.1, through the real client: once, and with the score."""

import dataclasses
import datetime
import errno
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import kaggle_server
import pytest
import yaml
from conftest import run_verb
from kaggle_server import COMPETITION, STORAGE, KaggleServer

from pipeline import submit
from pipeline.data import samples
from pipeline.kaggle import account as kaggle_account
from pipeline.kaggle import ledger
from pipeline.kaggle.account import Refused
from pipeline.kaggle.retry import RetryPolicy
from pipeline.kaggle.upload import upload
from pipeline.paths import LEDGER, Paths, recipe_file, submitting
from pipeline.recipe import read as recipes
from pipeline.support.errors import UserError
from pipeline.support.files import locked

ROOT = Path(__file__).parent.parent
QUICK = RetryPolicy(
    attempts=3, first_pause=0.01, longest_pause=0.02, connect=1, read=1,
    poll=0.01, score=20, confirm=0.3,
)  # fmt: skip
FILE = Path("submissions/tiny/submit.csv.gz")
THEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
NAMES = ("aaa_01", "aaa_02")
DVC_YAML = """
stages:
  train:
    matrix: {recipe: "${recipes}", fold: [0, 1]}
    cmd: mkdir -p runs/${item.recipe} && touch runs/${item.recipe}/${item.fold}.pt
    params:
      - recipes/${item.recipe}.yaml: [train]
    outs:
      - runs/${item.recipe}/${item.fold}.pt
  encode:
    matrix: {recipe: "${recipes}"}
    cmd: mkdir -p submissions/${item.recipe} && cp model submissions/${item.recipe}/submit.csv.gz
    deps:
      - model
      - runs/${item.recipe}
    outs:
      - submissions/${item.recipe}/submit.csv.gz
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stage `encode` has run: two test images of 4x6 pixels."""
    project = tmp_path_factory.mktemp("project")
    recipe = yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())
    recipe["download"] = {
        "kind": "competition", "slug": COMPETITION, "files": ["test.zip"], "optional_files": [],
    }  # fmt: skip
    (project / "data/tiny/raw").mkdir(parents=True)
    (project / "recipes").mkdir()
    (project / "eval/tiny").mkdir(parents=True)
    (project / "submissions").mkdir()
    (project / "recipes/tiny.yaml").write_text(yaml.safe_dump(recipe))
    shutil.copy(ROOT / "recipes/sample.yaml", project / "recipes")
    shutil.copy(ROOT / "submissions/ledger.csv", project / "submissions")
    lines = "".join(f"{name}.jpg,\n" for name in NAMES)
    (project / "data/tiny/raw/sample_submission.csv").write_text(f"img,rle_mask\n{lines}")
    rows = [
        samples.Sample(name, "test", "aaa", f"test.zip!test/{name}.jpg", "", -1, 4, 6, 0.0)
        for name in NAMES
    ]
    samples.write(project / "data/tiny/samples.csv", rows)
    (project / "eval/tiny/metrics.json").write_text('{"threshold": 0.5, "dice": 0.9965}')
    text = b"img,rle_mask\naaa_01.jpg,1 6\naaa_02.jpg,\n"
    (project / "model").write_bytes(gzip.compress(text, mtime=0))
    (project / "params.yaml").write_text("recipes: [tiny]\n")
    (project / "dvc.yaml").write_text(DVC_YAML)
    (project / ".dvc").mkdir()  # with the project's own settings: `dvc init` would turn on reports
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, project / ".dvc")
    (project / ".gitignore").write_text(
        "/data\n/eval\n/runs\n/work\n/submissions/*\n!/submissions/*.csv"
    )
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for command in (
        ("git", "init", "-q"), (dvc(), "repro", "-q"),
        ("git", "add", "-A"), (*git, "commit", "-qm", "first"),
    ):  # fmt: skip
        subprocess.run(command, cwd=project, check=True)
    return project


def dvc() -> str:
    return str(Path(sys.executable).with_name("dvc"))


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = tmp_path / "project"
    shutil.copytree(template, project)
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with kaggle_server.serving(tmp_path, monkeypatch) as server:
        yield server


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    return run_verb("submit", *arguments, at=Path.cwd())


def row(message: str = "first try") -> ledger.Row:
    """What `prepare` makes of the project, without asking DVC."""
    sha256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
    return ledger.Row(
        THEN, "tiny", sha256, "abc", "0.5", 0.9965, None, "UNCONFIRMED", "", "", message
    )


def send(wait: bool = True, policy: RetryPolicy = QUICK) -> ledger.Row:
    return submit.submit(COMPETITION, FILE, row(), wait, policy)


def read() -> list[ledger.Row]:
    return ledger.read(LEDGER)


def test_sends_waits_and_writes_it_down(server: KaggleServer, project: Path) -> None:
    done = run("tiny", "-m", "first try")
    assert done.returncode == 0, done.stderr
    for text in (
        "2 rows, 1 of them empty; foreground 12.5% on average, 0.0% to 25.0%",
        "out-of-fold  0.99650   at threshold 0.5",
        "public       0.99621   -0.00029 against out-of-fold",
        "private      0.99588   -0.00062 against out-of-fold",
        f"submission 1000 at https://www.kaggle.com/competitions/{COMPETITION}/submissions",
    ):
        assert text in done.stdout
    (entry,) = read()
    sha256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert dataclasses.astuple(entry)[1:] == (
        "tiny", sha256, head.stdout.strip(), "0.5", 0.9965, 1000, "COMPLETE", "0.99621",
        "0.99588", "first try",
    )  # fmt: skip
    assert server.submissions[0]["description"] == f"sha256:{sha256[:16]} first try"

    again = run("tiny", "-m", "second try")
    assert again.returncode == 1 and "were submitted at" in again.stderr
    assert "by recipe tiny as 1000: COMPLETE, public 0.99621" in again.stderr
    assert len(server.submissions) == 1 and read() == [entry]


def test_check_only_sends_nothing(server: KaggleServer, project: Path) -> None:
    done = run("tiny", "--check-only")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 rows" in done.stdout and not server.log and not read()


def test_no_wait(server: KaggleServer, project: Path) -> None:
    server.polls_until_scored = 2
    assert run("tiny", "-m", "x", "--no-wait").returncode == 0
    assert read()[0].status == "PENDING" and not server.count("GetSubmission")
    for arguments in (("--check-only",), ("-m", "x", "--no-wait")):
        assert "were submitted at" in run("tiny", *arguments).stderr, "nothing to wait for"
    for status in ("PENDING", "PENDING", "COMPLETE", "COMPLETE"):
        done = run("--list")
        assert done.returncode == 0 and status in done.stdout.splitlines()[1]
    assert server.count("GetSubmission") == 3, "a row that has its score asks no more"
    assert "0.99650" in done.stdout and "-0.00062" in done.stdout and "0.99621" in done.stdout


def test_a_ledger_is_shown_even_when_kaggle_cannot_be_asked(
    server: KaggleServer, project: Path
) -> None:
    assert send(wait=False).status == "PENDING"
    server.api_faults["GetSubmission"] = [lambda: (401, {"code": 401, "message": "No"}, {})]
    done = run("--list")
    assert done.returncode == 1 and "first try" in done.stdout and "401 (No)" in done.stderr


def test_a_recipe_that_is_gone(server: KaggleServer, project: Path) -> None:
    """Its rows stay as they are; the others are looked up."""
    gone = dataclasses.replace(row(), recipe="gone", sha256="1" * 64, ref=7, status="PENDING")
    ledger.put(LEDGER, gone)
    send(wait=False)
    done = run("--list")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert "gone: its open submissions are not looked up: recipes/gone.yaml: no" in done.stderr
    assert [(entry.recipe, entry.status) for entry in read()] == [
        ("gone", "PENDING"), ("tiny", "COMPLETE"),
    ]  # fmt: skip
    assert done.stdout.splitlines()[1].split()[1] == "gone"


def test_what_is_refused_before_kaggle_is_asked(server: KaggleServer, project: Path) -> None:
    assert "expected 'competition'" in run("sample", "-m", "x").stderr
    assert "recipes/nope.yaml: no such file" in run("nope", "-m", "x").stderr
    assert run("tiny").returncode == 2

    shutil.copy("recipes/tiny.yaml", "recipes/other.yaml")
    shutil.copytree("data/tiny", "data/other")
    shutil.copytree("submissions/tiny", "submissions/other")
    done = run("other", "-m", "x")
    assert "encode@other" in done.stderr and "params.yaml" in done.stderr

    Path("model").write_bytes(b"another")
    done = run("tiny", "-m", "x")
    assert done.returncode == 1 and "encode@tiny is not up to date (model: modified)" in done.stderr

    FILE.write_bytes(gzip.compress(b"img,rle_mask\naaa_01.jpg,1 6\n", mtime=0))
    assert "aaa_02.jpg" in run("tiny", "-m", "x").stderr
    FILE.write_bytes(b"")
    assert f"{FILE}: " in run("tiny", "-m", "x").stderr
    assert not server.log and not read()


def test_a_data_set_without_test_images(project: Path) -> None:
    samples.write(Path("data/tiny/samples.csv"), [])
    done = run("tiny", "--check-only")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/tiny/samples.csv: found no test images")


@pytest.mark.parametrize("content", ["[]", "{", '{"dice": "good", "threshold": 0.5}', "{}"])
def test_metrics_that_are_none(server: KaggleServer, project: Path, content: str) -> None:
    Paths.of("tiny").metrics.write_text(content)
    with pytest.raises(UserError, match="eval/tiny/metrics.json: .* run dvc repro tune@tiny again"):
        submit._row(Paths.of("tiny"), "x")


def test_changed_by_hand_after_encode(server: KaggleServer, project: Path) -> None:
    FILE.write_bytes(gzip.compress(b"img,rle_mask\naaa_01.jpg,1 5\naaa_02.jpg,\n", mtime=0))
    done = run("tiny", "-m", "x")
    assert done.returncode == 1 and f"{FILE}: modified" in done.stderr


def test_a_training_that_was_not_run(server: KaggleServer, project: Path) -> None:
    """Predict's own deps are as they were: the change is further up, told once for both folds."""
    path = Path("recipes/tiny.yaml")
    recipe = yaml.safe_load(path.read_text())
    recipe["train"]["phases"][0]["epochs"] += 1
    path.write_text(yaml.safe_dump(recipe))
    done = run("tiny", "-m", "x")
    assert done.returncode == 1 and done.stderr == (
        "error: encode@tiny is not up to date (recipes/tiny.yaml: train modified); run dvc repro "
        "encode@tiny\n"
    )
    assert not server.log and not read()


def test_the_commit_says_whether_the_tree_was_clean(project: Path) -> None:
    from pipeline.support import workspace

    clean = workspace.commit(LEDGER)
    assert len(clean) == 40
    LEDGER.write_text(LEDGER.read_text() + "\n")
    assert workspace.commit(LEDGER) == clean, "the ledger itself does not count"
    Path("model").write_bytes(b"another")
    assert workspace.commit(LEDGER) == f"{clean}-dirty"
    shutil.rmtree(".git")
    assert workspace.commit(LEDGER) == ""


def test_the_account_has_these_bytes(server: KaggleServer, project: Path) -> None:
    """Sent from another machine: not in this ledger, and two pages down the list."""
    server.page_size = 1
    for description in (f"{row().tag} elsewhere", "sha256:0000 other", "by hand"):
        server.submissions.append(
            {"ref": 7, "status": "COMPLETE", "publicScore": "0.5", "description": description,
             "date": "2026-01-01T00:00:00Z"}
        )  # fmt: skip
    with pytest.raises(UserError, match="has these bytes already, as submission 7 .*0.50000"):
        send()
    assert len(server.submissions) == 3 and not server.count("Upload")
    assert [(entry.ref, entry.status) for entry in read()] == [(7, "COMPLETE")]


@pytest.mark.parametrize(
    "faults",
    [["drop 10"], ["503"], ["500", "503"], ["drop 0", "drop 40"], ["400"], ["410"]],
    ids=["dropped", "503", "5xx twice", "dropped twice", "refused", "place gone"],
)
def test_an_upload_that_stumbles(server: KaggleServer, project: Path, faults: list[str]) -> None:
    server.put_faults = list(faults)
    assert send().status == "COMPLETE"
    assert len(server.submissions) == 1 and server.count("POST CreateSubmission") == 1


def test_an_upload_goes_on_where_it_stopped(server: KaggleServer, project: Path) -> None:
    server.put_faults = ["drop 10"]
    send()
    assert server.count("PUT status") == 1 and server.count("StartSubmissionUpload") == 1
    assert server.count("PUT upload0") == 2, "the first ten bytes, then the others"
    assert server.uploads["upload0"] == FILE.stat().st_size > 10
    assert server.upload_hashes["upload0"].digest() == hashlib.sha256(FILE.read_bytes()).digest()


def test_a_storage_that_keeps_a_part_gets_the_rest(server: KaggleServer, project: Path) -> None:
    server.put_faults = ["keep 10"]
    assert send().status == "COMPLETE"
    assert server.count("PUT upload0") == 2 and server.count("POST CreateSubmission") == 1
    assert server.upload_hashes["upload0"].digest() == hashlib.sha256(FILE.read_bytes()).digest()


def test_an_upload_whose_answer_alone_is_lost(server: KaggleServer, project: Path) -> None:
    server.put_faults = ["drop 9999"]
    assert send().status == "COMPLETE"
    assert server.count("PUT upload0") == 1 and server.count("PUT status") == 1


@pytest.mark.parametrize("faults", [["410"], ["drop 10", "410"]])
def test_a_place_that_is_gone_is_left(
    server: KaggleServer, project: Path, faults: list[str]
) -> None:
    server.put_faults = list(faults)
    assert send().status == "COMPLETE"
    assert server.count("StartSubmissionUpload") == 2
    assert server.uploads["upload1"] == FILE.stat().st_size


@pytest.mark.parametrize("fault", ["drop 0", "503", "400", "stop reading"])
def test_an_upload_that_never_arrives(server: KaggleServer, project: Path, fault: str) -> None:
    server.put_faults = [fault] * 9
    if fault == "stop reading":  # more than the buffers of both ends hold
        with FILE.open("ab") as stream:
            stream.truncate(64 << 20)
    with pytest.raises(UserError, match="upload failed 3 times .*nothing was submitted"):
        send()
    assert not server.submissions and not read() and not server.count("CreateSubmission")
    server.put_faults.clear()
    send()
    assert len(server.submissions) == 1


def test_an_empty_file(server: KaggleServer, project: Path) -> None:
    FILE.write_bytes(b"")
    with pytest.raises(UserError, match="found an empty file"):
        send()
    assert not server.count("Upload") and not server.submissions


def test_a_file_that_changes_on_its_way(server: KaggleServer, project: Path) -> None:
    """What was checked, and what the ledger would name, is not what was sent."""
    before = row()
    FILE.write_bytes(b"another")
    with pytest.raises(UserError, match="changed while it was sent"):
        submit.submit(COMPETITION, FILE, before, True, QUICK)
    assert not server.submissions and not read()


def test_memory_stays_flat(server: KaggleServer, project: Path) -> None:
    """400 MB: the file is read as it is sent."""
    code = f"""
import resource, sys
from pathlib import Path
from pipeline.kaggle import account as kaggle_site, upload
from pipeline.kaggle.retry import RetryPolicy
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
with kaggle_site.connect(RetryPolicy()) as account:
    before = peak()
    upload.upload(account, {COMPETITION!r}, Path("big.gz"), RetryPolicy())
    print(peak() - before)
"""
    with Path("big.gz").open("wb") as stream:
        stream.truncate(400_000_000)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert server.uploads == {"upload0": 400_000_000}, done.stderr
    assert int(done.stdout) < 20_000, f"{done.stdout} KiB more than before"


def test_a_lost_reply(server: KaggleServer, project: Path) -> None:
    server.api_faults["CreateSubmission"] = ["lost"]
    entry = send()
    assert (entry.ref, entry.status) == (1000, "COMPLETE") and read() == [entry]
    assert len(server.submissions) == 1 and server.count("POST CreateSubmission") == 1


def test_a_lost_reply_and_a_list_that_learns_late(server: KaggleServer, project: Path) -> None:
    server.api_faults["CreateSubmission"] = ["lost"]
    empty: list[kaggle_server.Reply] = [(200, {"submissions": []}, {})] * 4
    server.api_faults["ListSubmissions"] = [lambda: empty[0]] * 4
    assert send().status == "COMPLETE"
    assert len(server.submissions) == 1


def hide_submissions(server: KaggleServer) -> None:
    """The list shows nothing, until the faults are cleared."""
    server.api_faults["ListSubmissions"] = [lambda: (200, {"submissions": []}, {})] * 9999


def grow_old(seconds: float) -> None:
    """The ledger's row was asked for so long ago."""
    (entry,) = read()
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    ledger.put(LEDGER, dataclasses.replace(entry, time=then))


def test_a_lost_reply_and_a_list_that_learns_too_late(server: KaggleServer, project: Path) -> None:
    """The first run must not say that it worked; no later one must send again."""
    server.api_faults["CreateSubmission"] = ["lost"]
    hide_submissions(server)
    with pytest.raises(UserError, match="did not confirm .*does not list it yet: it may have it"):
        send()
    (asked,) = read()
    assert asked.status == "UNCONFIRMED"
    server.log.clear()
    for age in (0, 590):
        grow_old(age)
        with pytest.raises(UserError, match="neither confirmed nor listed it; nothing was sent"):
            send()
    assert server.count("ListSubmissions") > 4, "it looks for a while, not once"
    server.api_faults.clear()
    taken = submit.submit(COMPETITION, FILE, row("second try"), True, QUICK)
    assert (taken.ref, taken.status, taken.message) == (1000, "COMPLETE", "first try")
    assert not server.count("Upload") and not server.count("CreateSubmission")
    assert len(server.submissions) == 1 and read() == [taken]


def test_a_request_that_never_arrived(server: KaggleServer, project: Path) -> None:
    """Nothing tells it from a list that learns late, except time."""
    server.api_faults["CreateSubmission"] = ["drop"]
    for text in ("does not list it yet", "nothing was sent now"):
        with pytest.raises(UserError, match=f"{text}.* anew only after ..:..:.. UTC") as caught:
            send()
        ten_minutes_later = read()[0].time + datetime.timedelta(minutes=10)
        assert f"only after {ten_minutes_later:%H:%M:%S} UTC" in str(caught.value)
    assert server.count("POST CreateSubmission") == 1
    grow_old(610)
    entry = send()
    assert entry.status == "COMPLETE" and entry.time > row().time
    assert len(server.submissions) == 1 and read() == [entry]


@pytest.mark.parametrize("code", [500, 503])
def test_an_answer_that_says_neither_yes_nor_no(
    server: KaggleServer, project: Path, code: int
) -> None:
    server.api_faults["CreateSubmission"] = [lambda: (code, {}, {})]
    with pytest.raises(UserError, match=f"did not confirm the submission .answer {code}"):
        send()
    assert server.count("POST CreateSubmission") == 1


def test_a_list_that_cannot_be_read(server: KaggleServer, project: Path) -> None:
    """Without it nothing shows whether the bytes were sent: they are not."""
    server.api_faults["ListSubmissions"] = [lambda: (500, {}, {})] * 9
    with pytest.raises(UserError, match="Kaggle answered 500"):
        send()
    assert not server.submissions and not server.count("Upload")


def test_the_daily_limit(server: KaggleServer, project: Path) -> None:
    words = "Your team has used its daily Submission allowance (5) today"
    server.api_faults["CreateSubmission"] = [lambda: (400, {"code": 400, "message": words}, {})]
    with pytest.raises(UserError, match="400 .Your team has used its daily Submission allowance"):
        send()
    assert not read(), "tomorrow the same bytes may be sent"
    assert send().status == "COMPLETE"


def test_a_refusal_that_looks_like_success(server: KaggleServer, project: Path) -> None:
    """HTTP 200, words, and no number: the client calls it a success."""
    words = "Submission not allowed: limit reached"
    server.api_faults["CreateSubmission"] = [lambda: (200, {"message": words}, {})]
    with pytest.raises(UserError, match=words):
        send()
    assert not server.submissions


def test_pending_then_complete(
    server: KaggleServer, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.polls_until_scored = 3
    assert send().private == "0.99588"
    assert server.count("GetSubmission") == 4
    assert "no score yet" not in capsys.readouterr().err, "a sign of life a minute, not a look"


def test_no_score_in_time(server: KaggleServer, project: Path) -> None:
    server.polls_until_scored = 10**6
    with pytest.raises(UserError, match="submission 1000: no score after .*--list"):
        send(policy=dataclasses.replace(QUICK, score=0.2))
    assert read()[0].status == "PENDING"


def test_an_error_at_kaggle(server: KaggleServer, project: Path) -> None:
    server.outcome = {"status": "ERROR", "errorDescription": "Evaluation Exception: row 3"}
    done = run("tiny", "-m", "x")
    assert done.returncode == 1
    assert "submission 1000: Kaggle could not score it (Evaluation Exception: row 3)" in done.stderr
    assert read()[0].status == "ERROR"


def test_two_at_once(server: KaggleServer, project: Path) -> None:
    with (
        locked(submitting(COMPETITION)),
        pytest.raises(UserError, match="another process"),
    ):
        send()
    assert not server.submissions and not server.count("Upload")


def test_others_may_submit_while_a_score_is_awaited(server: KaggleServer, project: Path) -> None:
    def look() -> kaggle_server.Reply:
        with locked(submitting(COMPETITION)):
            return 200, {"ref": 1000, "status": "COMPLETE"}, {}

    server.api_faults["GetSubmission"] = [look]
    assert send().status == "COMPLETE"


def test_submitted_while_another_was_prepared(server: KaggleServer, project: Path) -> None:
    """Both checks passed before the first was sent; the list does not know of it yet."""
    recipe, paths = recipes.load(recipe_file("tiny")), Paths.of("tiny")
    submit.prepare(recipe, paths, "one", True)
    _, second = submit.prepare(recipe, paths, "two", True)
    send(wait=False)
    hide_submissions(server)
    with pytest.raises(UserError, match="were submitted at .* as 1000: PENDING.*nothing was sent"):
        submit.submit(COMPETITION, FILE, second, False, QUICK)
    assert len(server.submissions) == 1 and [entry.message for entry in read()] == ["first try"]


def test_the_same_bytes_of_two_recipes(server: KaggleServer, project: Path) -> None:
    """Both past the checks: the second keeps the first's row, and sends nothing."""
    other = dataclasses.replace(row("second try"), recipe="other")
    send(wait=False)
    (first,) = read()
    hide_submissions(server)
    with pytest.raises(UserError, match="were submitted at .* by recipe tiny as 1000"):
        submit.submit(COMPETITION, FILE, other, False, QUICK)
    assert len(server.submissions) == 1 and read() == [first]


def test_two_clones(
    server: KaggleServer, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither knows of the other's ledger: the lock is the machine's, the list the account's."""
    shutil.copytree(project, tmp_path / "clone")
    arrived, go_on = threading.Event(), threading.Event()

    def slow() -> kaggle_server.Reply:
        arrived.set()
        go_on.wait(60)
        mark = {"ref": 7, "status": "PENDING", "description": f"{row().tag} x", "polls": 0}
        server.submissions.append(mark)
        return 200, {"ref": 7}, {}

    server.api_faults["CreateSubmission"] = [slow]
    first = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "submit", "tiny", "-m", "x", "--no-wait"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert arrived.wait(60)
        monkeypatch.chdir(tmp_path / "clone")
        with pytest.raises(UserError, match="another process"):
            send()
        go_on.set()
        assert first.wait(60) == 0
    finally:
        first.kill()
    with pytest.raises(UserError, match="Kaggle has these bytes already, as submission 7"):
        send()
    assert server.count("POST CreateSubmission") == len(server.submissions) == 1


def test_submitted_elsewhere_during_the_upload(server: KaggleServer, project: Path) -> None:
    """The list is asked again right before the file is sent."""

    def meanwhile() -> kaggle_server.Reply:
        mark = {"ref": 7, "status": "PENDING", "description": f"{row().tag} elsewhere", "polls": 0}
        server.submissions.append(mark)
        server.uploads["upload0"], server.upload_sizes["upload0"] = 0, FILE.stat().st_size
        return 200, {"token": "upload0", "createUrl": f"{STORAGE}/upload/upload0?sig=1"}, {}

    server.api_faults["StartSubmissionUpload"] = [meanwhile]
    with pytest.raises(UserError, match="Kaggle has these bytes already, as submission 7"):
        send()
    assert not server.count("CreateSubmission") and [entry.ref for entry in read()] == [7]


def test_a_redirect_whose_replies_are_lost(server: KaggleServer, project: Path) -> None:
    again = {"Location": "/api/v1/competitions.CompetitionApiService/CreateSubmission"}
    server.api_faults["CreateSubmission"] = [lambda: (308, None, again), *["lost"] * 6]
    with pytest.raises(UserError, match="did not confirm the submission .answer 308"):
        send()
    assert server.count("POST CreateSubmission") == 1 and not server.submissions


def test_interrupted_while_waiting(
    server: KaggleServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again goes on waiting, as the line at the end says."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    server.polls_until_scored = 1
    with monkeypatch.context() as patch:
        patch.setattr(submit.time, "sleep", interrupt)
        done = run("tiny", "-m", "first try")
    assert done.returncode == 130 and "run the same command again to go on" in done.stderr
    assert [entry.status for entry in read()] == ["PENDING"]
    server.log.clear()
    done = run("tiny", "-m", "first try")
    assert done.returncode == 0 and "private      0.99588" in done.stdout, done.stderr
    assert not server.count("Upload") and not server.count("CreateSubmission")
    assert [(entry.ref, entry.status) for entry in read()] == [(1000, "COMPLETE")]
    assert "were submitted at" in run("tiny", "-m", "first try").stderr


def test_the_network_goes_while_waiting(server: KaggleServer, project: Path) -> None:
    server.api_faults["GetSubmission"] = ["drop"] * 3
    with pytest.raises(UserError, match="no answer from .* run the command again"):
        send()
    assert send().status == "COMPLETE" and len(server.submissions) == 1


def test_signs_of_life(
    server: KaggleServer, project: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(submit, "_SIGN_OF_LIFE", 0)
    server.polls_until_scored = 2
    send(policy=dataclasses.replace(QUICK, score=7200))
    lines = [line for line in capsys.readouterr().err.splitlines() if "no score yet" in line]
    assert lines == 2 * ["submission 1000: no score yet, after 0 of at most 120 minutes"]


@pytest.mark.parametrize("code", [403, 404])
def test_a_submission_that_kaggle_does_not_show(
    server: KaggleServer, project: Path, code: int
) -> None:
    """Another account's, or deleted: its row stays, and those after it are looked up."""
    foreign = dataclasses.replace(row("foreign"), sha256="1" * 64, ref=7, status="PENDING")
    ledger.put(LEDGER, foreign)
    send(wait=False)
    server.api_faults["GetSubmission"] = [lambda: (code, {"code": code, "message": "No"}, {})]
    done = run("--list")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"tiny: submission 7: Kaggle answered {code} (No)")
    assert [(entry.ref, entry.status) for entry in read()] == [(7, "PENDING"), (1000, "COMPLETE")]


def test_a_competition_that_kaggle_does_not_show(server: KaggleServer, project: Path) -> None:
    """A row without a number is looked for in its list: that is refused, the next row is not."""
    lost = dataclasses.replace(row("lost"), sha256="1" * 64, ref=None, status="UNCONFIRMED")
    ledger.put(LEDGER, lost)
    send(wait=False)
    server.api_faults["ListSubmissions"] = [lambda: (403, {"code": 403, "message": "No"}, {})]
    done = run("--list")
    assert done.returncode == 0 and "403 (No)" in done.stderr
    assert [entry.status for entry in read()] == ["UNCONFIRMED", "COMPLETE"]


@pytest.mark.parametrize("code", [401, 429, 500, 503])
def test_a_server_in_trouble_is_not_asked_about_the_next_row(
    server: KaggleServer, project: Path, code: int
) -> None:
    ledger.put(LEDGER, dataclasses.replace(send(wait=False), sha256="1" * 64, ref=7))
    asked = server.count("GetSubmission")
    server.api_faults["GetSubmission"] = [lambda: (code, {"code": code, "message": "No"}, {})] * 99
    with pytest.raises(Refused, match=str(code)):
        submit.refresh(read(), QUICK)
    assert 1 <= server.count("GetSubmission") - asked <= QUICK.attempts
    assert {entry.status for entry in read()} == {"PENDING"}


def test_what_was_learned_before_a_refusal_is_shown(server: KaggleServer, project: Path) -> None:
    first = send(wait=False)
    ledger.put(LEDGER, dataclasses.replace(first, sha256="1" * 64, ref=7))
    server.api_faults["GetSubmission"] = [
        None, lambda: (401, {"code": 401, "message": "No"}, {}),
    ]  # fmt: skip
    done = run("--list")
    assert done.returncode == 1 and "401 (No)" in done.stderr
    assert [line.split()[7] for line in done.stdout.splitlines()[1:]] == ["COMPLETE", "PENDING"]


def test_another_place_is_not_sent(server: KaggleServer, project: Path) -> None:
    done = run("tiny", "-m", "x", "--at", "submission=elsewhere")
    assert done.returncode == 2 and "--at: submit sends what DVC knows" in done.stderr
    assert not server.log and not read()


@pytest.mark.parametrize("words", ["caf\udce9", "\udcff"])
def test_a_message_that_is_no_text(server: KaggleServer, project: Path, words: str) -> None:
    done = run("tiny", "-m", words)
    assert done.returncode == 1 and done.stderr.startswith("error: -m: found '")
    assert not server.log and not read()


def test_an_edited_ledger(server: KaggleServer, project: Path) -> None:
    send(wait=False)
    LEDGER.write_text(LEDGER.read_text().replace(",1000,", ",1000.0,"))
    before = LEDGER.read_bytes()
    server.log.clear()
    for arguments in (("--list",), ("tiny", "-m", "x")):
        done = run(*arguments)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert f"{LEDGER}: line 2: ref: found '1000.0'" in done.stderr
    assert LEDGER.read_bytes() == before and not server.log


def test_a_ledger_that_cannot_be_written(
    server: KaggleServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out before anything is sent."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "submissions")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    done = run("tiny", "-m", "x")
    assert done.returncode == 1 and "submissions: Read-only file system" in done.stderr
    assert not server.log


def test_two_commands_at_once(server: KaggleServer, project: Path) -> None:
    """Whoever comes second is refused, by the lock or by what the ledger then says."""
    hide_submissions(server)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline", "submit", "tiny", "-m", "x", "--no-wait"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = "".join(process.communicate(timeout=120)[1] for process in processes)
    assert sorted(process.returncode for process in processes) == [0, 1], errors
    # DVC, too, lets in one at a time.
    assert any(w in errors for w in ("another process", "were submitted at", "dvc status")), errors
    assert server.count("POST CreateSubmission") == len(server.submissions) == len(read()) == 1


def test_killed_between_question_and_answer(server: KaggleServer, project: Path) -> None:
    arrived = threading.Event()

    def hang() -> kaggle_server.Reply:
        arrived.set()
        threading.Event().wait(2)
        return 500, {}, {}

    server.api_faults["CreateSubmission"] = [hang]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "submit", "tiny", "-m", "x"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert arrived.wait(30)
    process.kill()
    process.wait(30)
    assert read()[0].status == "UNCONFIRMED", "it is written down before it is asked"
    server.submissions.append(  # Kaggle did record it
        {"ref": 5, "status": "PENDING", "description": f"{row().tag} x", "polls": 0}
    )
    assert run("--list").returncode == 0
    assert [(entry.ref, entry.status) for entry in read()] == [(5, "PENDING")]
    assert run("--list").returncode == 0
    assert [(entry.ref, entry.status) for entry in read()] == [(5, "COMPLETE")]


def test_upload_of_a_competition_that_ended(server: KaggleServer, project: Path) -> None:
    words = "Competition is not accepting submissions"
    server.api_faults["StartSubmissionUpload"] = [
        lambda: (403, {"code": 403, "message": words}, {})
    ]
    with (
        kaggle_account.connect(QUICK) as account,
        pytest.raises(UserError, match=words),
    ):
        upload(account, COMPETITION, FILE, QUICK)
