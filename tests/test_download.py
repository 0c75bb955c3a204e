"""The stage `download` against a Kaggle on 127.0.0.1, through the real client.

Whatever goes wrong on the way, it ends with exactly the right bytes, or with an error and no
file under the final name; and the next run, with nothing wrong, makes it right.
"""

import errno
import filecmp
import functools
import io
import itertools
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import kaggle_server
import pytest
from conftest import copy_project
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kaggle_server import COMPETITION, Blob, Fault, KaggleServer, noise, zipped

from pipeline.download import stage
from pipeline.download.stage import download
from pipeline.kaggle import account as kaggle_account
from pipeline.kaggle import crc32c, receipts, transfer
from pipeline.kaggle.retry import RetryPolicy
from pipeline.recipe import read
from pipeline.recipe.schema import Competition, Dataset, Synthetic
from pipeline.support import files
from pipeline.support.errors import UserError

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("PIPELINE_DATA", "/nowhere"), "competitions", COMPETITION)
QUICK = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02, connect=2, read=0.5)
DATA = zipped({"train/a.jpg": noise(1_500_000), "train/b.jpg": noise(1_500_000, 1)})
OTHER = zipped({"train/a.jpg": noise(1_500_000, 2), "train/b.jpg": noise(1_500_000, 3)})
PAGE = b"<!DOCTYPE html><html><body>Please sign in to this network</body></html>"
SMALL = zipped({"a.csv": noise(5_000)})


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """The folder of a recipe: what lies beside it is looked through, and is no other test's."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with kaggle_server.serving(tmp_path, monkeypatch) as server:
        server.competitions[COMPETITION] = {"train.zip": Blob(DATA), "list.csv.zip": Blob(SMALL)}
        yield server


def wanted(*files: str) -> Competition:
    return Competition(kind="competition", slug=COMPETITION, files=files, optional_files=())


def fetch(out: Path, *files: str, policy: RetryPolicy = QUICK) -> list[Path]:
    return download(wanted(*(files or ("train.zip",))), out, None, policy)


def recipe(path: Path, download: dict[str, object]) -> Path:
    """A whole recipe with this section `download`."""
    import yaml

    content = yaml.safe_load((ROOT / "recipes/sample.yaml").read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**content, "download": download}))
    return path


def command(out: Path, *files: str) -> list[str]:
    section: dict[str, object] = {
        "kind": "competition", "slug": COMPETITION, "files": list(files), "optional_files": [],
    }  # fmt: skip
    path = recipe(out.parent / f"recipes/tiny-{len(files)}.yaml", section)
    in_folder = ["sh", "-c", 'cd "$0" && exec "$@"', str(out.parent)]
    run = [sys.executable, "-m", "pipeline", "download", path.stem, "--at", f"raw={out}"]
    return [*in_folder, *run]


def test_brings_the_files_and_keeps_them(server: KaggleServer, tmp_path: Path) -> None:
    server.page_size = 1  # the listing takes two pages
    out = tmp_path / "data/raw"
    paths = fetch(out, "train.zip", "list.csv.zip")
    assert [path.read_bytes() for path in paths] == [DATA, SMALL]
    assert sorted(path.name for path in out.iterdir()) == ["list.csv.zip", "train.zip"]
    assert server.count("POST ListDataFiles") == 2
    server.log.clear()
    started = time.monotonic()
    assert fetch(out, "train.zip", "list.csv.zip") == paths
    assert not server.log, "what is there needs no network"
    assert time.monotonic() - started < 0.5


def test_only_what_is_missing_is_fetched(server: KaggleServer, tmp_path: Path) -> None:
    fetch(tmp_path / "raw", "train.zip")
    server.log.clear()
    fetch(tmp_path / "raw", "train.zip", "list.csv.zip")
    assert not server.count("GET train.zip") and server.count("GET list.csv.zip") == 1


OPTIONAL = ("list.csv.zip", "not-offered.jpg")


def fetch_optional(
    out: Path, local: Path | None = None, files: tuple[str, ...] = OPTIONAL
) -> list[Path]:
    section = wanted("train.zip").model_copy(update={"optional_files": files})
    return download(section, out, local, QUICK)


def test_optional_files_are_had_where_they_are_offered(
    server: KaggleServer, tmp_path: Path
) -> None:
    paths = fetch_optional(tmp_path / "raw")
    assert [path.name for path in paths] == ["list.csv.zip", "train.zip"]
    assert paths[0].read_bytes() == SMALL
    server.log.clear()
    assert fetch_optional(tmp_path / "raw") == paths
    assert not server.log, "what was not offered is not asked for again"


def test_optional_files_are_looked_after_like_the_others(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named later, changed or deleted, while every needed file is here."""
    out = tmp_path / "raw"
    fetch(out)
    paths = fetch_optional(out)
    assert [path.name for path in paths] == ["list.csv.zip", "train.zip"]
    paths[0].write_bytes(SMALL[:-1])
    assert fetch_optional(out) == paths and paths[0].read_bytes() == SMALL
    assert "list.csv.zip: changed since it was checked" in capsys.readouterr().err
    paths[0].unlink()
    assert fetch_optional(out) == paths and paths[0].read_bytes() == SMALL
    assert server.count("GET train.zip") == 1
    assert fetch_optional(out, files=("list.csv.zip", "train.zip")) == paths, "named twice"


def test_an_optional_file_that_is_offered_later(server: KaggleServer, tmp_path: Path) -> None:
    """Noticed when Kaggle is asked for another reason; a damaged note is another reason."""
    out = tmp_path / "raw"
    fetch_optional(out)
    server.competitions[COMPETITION]["not-offered.jpg"] = Blob(b"jpeg", kind="image/jpeg")
    assert len(fetch_optional(out)) == 2
    (tmp_path / ".download-raw/not-offered.json").write_text("[")
    assert len(fetch_optional(out)) == 3
    server.log.clear()
    assert len(fetch_optional(out)) == 3 and not server.log


def test_an_optional_file_that_is_offered_no_more(server: KaggleServer, tmp_path: Path) -> None:
    """Deleted, it is done without; changed, it is not taken for what it was."""
    out = tmp_path / "raw"
    paths = fetch_optional(out)
    del server.competitions[COMPETITION]["list.csv.zip"]
    paths[0].write_bytes(SMALL[:-1])
    for _ in range(2):
        with pytest.raises(UserError, match="list.csv.zip: changed .* not offered any more"):
            fetch_optional(out)
    paths[0].unlink()
    server.log.clear()
    assert fetch_optional(out) == fetch_optional(out) == [out / "train.zip"]
    assert not server.log


def test_optional_files_that_are_here_already(server: KaggleServer, tmp_path: Path) -> None:
    """The folder is looked at each time; what Kaggle lacked says nothing about it."""
    here, out = local_archives(tmp_path), tmp_path / "raw"
    fetch_optional(out, files=OPTIONAL[1:])
    server.log.clear()
    assert fetch_optional(out, here) == [out / "train.zip"]
    place = here / "competitions" / COMPETITION
    for name in OPTIONAL:
        (place / name).write_bytes(SMALL)
        assert name in [path.name for path in fetch_optional(out, here)]
    (out / "not-offered.jpg").unlink()
    assert len(fetch_optional(out, here)) == 3 and (out / "not-offered.jpg").exists()
    for name in OPTIONAL:
        (place / name).unlink()
    (out / "not-offered.jpg").unlink()
    assert [path.name for path in fetch_optional(out, here)] == ["list.csv.zip", "train.zip"]
    (out / "list.csv.zip").write_bytes(b"")
    with pytest.raises(UserError, match="list.csv.zip: changed .* not offered any more"):
        fetch_optional(out, here)
    assert not server.log


def test_a_whole_data_set(server: KaggleServer, tmp_path: Path) -> None:
    server.datasets["owner/some-set"] = Blob(DATA)
    section = Dataset(kind="dataset", slug="owner/some-set")
    (path,) = download(section, tmp_path / "raw", None, QUICK)
    assert path.name == "some-set.zip" and path.read_bytes() == DATA


def test_names_as_the_server_gives_them(server: KaggleServer, tmp_path: Path) -> None:
    files = server.competitions[COMPETITION]
    files["a b.zip"] = Blob(SMALL)
    files["masks.csv"] = Blob(SMALL, served="masks.csv.zip")  # packed on the way
    files["plain.csv"] = Blob(b"a,b\n1,2\n", kind="text/csv", hashes=())
    paths = fetch(tmp_path / "raw", "a b.zip", "masks.csv", "plain.csv")
    assert [path.name for path in paths] == ["a b.zip", "masks.csv.zip", "plain.csv"]
    assert paths[2].read_bytes() == b"a,b\n1,2\n"


# Faults that pass: the right bytes within the same run.
PASSING: dict[str, list[Fault]] = {
    "S1 error page after a drop": [Fault(cut_at=900_000), Fault(status=503)],
    "S1 address runs out after a drop": [Fault(cut_at=900_000), Fault(status=403)],
    "S2 end missing, no length": [Fault(length=False, cut_at=2_000_000)],
    "S2 end missing, no length, no hash": [Fault(length=False, cut_at=2_000_000, hashes={})],
    "S4 wrong bytes, right length": [Fault(data=OTHER)],
    "S4 wrong bytes, right length, no hash": [
        Fault(data=DATA[:800_000] + b"\0" * 9 + DATA[800_009:], hashes={})
    ],
    "S5 range from the beginning": [Fault(cut_at=900_000), Fault(lie_range=True)],
    "S7 replaced behind a drop": [
        Fault(cut_at=900_000, hashes={}),
        Fault(data=OTHER, if_range=False, hashes={}, headers={"ETag": '"v2"'}),
    ],
    "S7 replaced, not even the validator says so": [
        Fault(cut_at=900_000, hashes={}),
        Fault(data=OTHER, if_range=False, hashes={}),
    ],
    "stall": [Fault(stall_at=900_000, seconds=1)],
    "stall before the first byte": [Fault(stall_at=0, seconds=1)],
    "reset": [Fault(cut_at=900_000, reset=True)],
    "no bytes at all": [Fault(cut_at=0)],
    "429": [Fault(status=429, headers={"Retry-After": "0"})],
    "500": [Fault(status=500)],
    "address that ran out": [Fault(status=400)],
    "416": [Fault(cut_at=900_000), Fault(status=416)],
    "no ranges": [Fault(cut_at=900_000, ranges=False), Fault(ranges=False)],
    "no validator, no hash": [Fault(cut_at=900_000, validator=False, hashes={})],
    "over-long": [Fault(data=DATA + b"more", length=False)],
    "over-long, no hash": [Fault(data=DATA + b"more", length=False, hashes={})],
    "wrong hash": [Fault(hashes={"md5": "AAAAAAAAAAAAAAAAAAAAAA=="})],
    "wrong crc32c": [Fault(hashes={"crc32c": "AAAAAA=="})],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes(server: KaggleServer, tmp_path: Path, faults: list[Fault]) -> None:
    server.blob_faults["train.zip"] += faults
    (path,) = fetch(tmp_path / "raw")
    assert path.read_bytes() == DATA
    assert [file.name for file in path.parent.iterdir()] == ["train.zip"]


BAD_CRC = bytearray(DATA)
BAD_CRC[1000] ^= 1
LASTING: dict[str, tuple[Fault, str]] = {
    "S2 end missing": (Fault(length=False, cut_at=2_000_000), "wrong bytes"),
    "S3 page instead of a zip": (Fault(data=PAGE, kind="text/html"), "found a page"),
    "S3 page that says it is a zip": (Fault(data=PAGE, hashes={}), "found a web page"),
    "S4 wrong bytes, right length": (Fault(data=OTHER), "MD5"),
    "zip whose checksum fails": (Fault(data=bytes(BAD_CRC), hashes={}), "train/a.jpg"),
    "over-long": (Fault(data=DATA + b"x", length=False, hashes={}), "after the zip's end"),
    "junk in front": (Fault(data=b"x" * 9 + DATA, hashes={}), "9 foreign bytes before"),
    "wrong md5": (Fault(hashes={"md5": "AAAAAAAAAAAAAAAAAAAAAA=="}), "MD5"),
    "wrong crc32c": (Fault(hashes={"crc32c": "AAAAAA=="}), "CRC32C"),
    "429": (Fault(status=429, headers={"Retry-After": "0"}), "429"),
    "429 for an hour": (Fault(status=429, headers={"Retry-After": "3600"}), "wait 3600 s"),
    "500": (Fault(status=500), "500"),
    "address that ran out": (Fault(status=403), "answer 403 from the storage"),
    "always cut at one place": (Fault(cut_at=900_000), "at byte 900,000"),
    "always stalls at one place": (Fault(stall_at=900_000, seconds=1), "at byte 900,000"),
    "compressed on the way": (Fault(headers={"Content-Encoding": "gzip"}), "Content-Encoding"),
}


@pytest.mark.parametrize(("fault", "text"), LASTING.values(), ids=LASTING)
def test_a_fault_that_lasts(server: KaggleServer, tmp_path: Path, fault: Fault, text: str) -> None:
    server.blob_faults["train.zip"] += [fault] * 30
    out = tmp_path / "raw"
    with pytest.raises(UserError) as caught:
        fetch(out, "list.csv.zip", "train.zip")
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert "X-Signature" not in str(caught.value), "a signed address is a secret"
    assert [file.name for file in out.iterdir()] == ["list.csv.zip"]

    server.blob_faults["train.zip"].clear()
    server.log.clear()
    assert fetch(out, "list.csv.zip", "train.zip")[1].read_bytes() == DATA
    assert not server.count("GET list.csv.zip"), "what was right is not fetched again"
    if "900_000" in text.replace(",", "_"):
        assert server.count("GET train.zip bytes=900000-") == server.count("GET train.zip") == 1


def test_the_client_itself_accepts_what_is_refused_here(
    server: KaggleServer, tmp_path: Path
) -> None:
    """The faults are real: the client's own download calls each of these a success."""
    from pipeline.kaggle import client
    from pipeline.kaggle.retry import RetryAdapter

    api = client.api(RetryAdapter(QUICK))
    client.sign_in(api)
    for number, fault in enumerate(
        (
            Fault(length=False, cut_at=2_000_000),  # S2
            Fault(data=PAGE, kind="text/html"),  # S3
            Fault(data=OTHER),  # S4
        )
    ):
        server.blob_faults["train.zip"].append(fault)
        folder = tmp_path / str(number)
        api.competition_download_file(COMPETITION, "train.zip", str(folder), quiet=True)
        assert (folder / "train.zip").read_bytes() != DATA


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=4), resets=st.booleans())
def test_drops_at_any_bytes(
    server: KaggleServer, tmp_path: Path, cuts: list[int], resets: bool
) -> None:
    out = tmp_path / f"raw{next(COUNTER)}"
    server.blob_faults["train.zip"] = [Fault(cut_at=cut, reset=resets) for cut in cuts]
    policy = RetryPolicy(attempts=9, first_pause=0.001, longest_pause=0.002, connect=2, read=2)
    (path,) = fetch(out, policy=policy)
    assert path.read_bytes() == DATA


COUNTER = itertools.count()


def test_every_byte_that_arrived_is_kept(server: KaggleServer, tmp_path: Path) -> None:
    """The client loses up to 1 MiB at a cut and never ends where cuts come sooner."""
    cuts = range(100_000, len(DATA), 100_000)
    server.blob_faults["train.zip"] = [Fault(cut_at=cut) for cut in cuts]
    server.sent.clear()
    (path,) = fetch(tmp_path / "raw")
    assert path.read_bytes() == DATA
    assert server.sent["train.zip"] == len(DATA)


def test_a_file_without_length_and_hash(server: KaggleServer, tmp_path: Path) -> None:
    """Only the listing's size can show that a CSV is whole."""
    text = b"img,mask\n" * 1000
    server.competitions[COMPETITION]["a.csv"] = Blob(text, kind="text/csv", hashes=())
    server.blob_faults["a.csv"] = [Fault(length=False, cut_at=5_000)]
    assert fetch(tmp_path / "raw", "a.csv")[0].read_bytes() == text
    server.blob_faults["a.csv"] = [Fault(length=False, cut_at=5_000)] * 9
    with pytest.raises(UserError, match="a.csv"):
        fetch(tmp_path / "raw2", "a.csv")
    assert not list((tmp_path / "raw2").iterdir())


def test_crc32c_is_checked_where_there_is_no_md5(server: KaggleServer, tmp_path: Path) -> None:
    data = zipped({"a": noise(40_003)})
    server.competitions[COMPETITION]["joined.zip"] = Blob(data, hashes=("crc32c",))
    assert fetch(tmp_path / "raw", "joined.zip")[0].read_bytes() == data


@given(st.binary(max_size=300), st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_crc32c(data: bytes, cut: int) -> None:
    expected = int.from_bytes(kaggle_server._crc32c(data), "big")
    assert crc32c.update(crc32c.update(0, data[:cut]), data[cut:]) == expected


def test_crc32c_check_value() -> None:
    assert crc32c.update(0, b"123456789") == 0xE3069283  # RFC 3720, B.4


def test_an_api_that_stumbles(server: KaggleServer, tmp_path: Path) -> None:
    def busy() -> kaggle_server.Reply:
        return 429, {"code": 429, "message": "Too many requests"}, {"Retry-After": "0"}

    def broken() -> kaggle_server.Reply:
        return 502, {}, {}

    server.api_faults["IntrospectToken"] = ["drop"]
    server.api_faults["ListDataFiles"] = [busy, broken]
    server.api_faults["DownloadDataFile"] = ["drop", "stall"]
    assert fetch(tmp_path / "raw")[0].read_bytes() == DATA


def test_a_page_instead_of_an_answer(server: KaggleServer, tmp_path: Path) -> None:
    server.api_faults["ListDataFiles"] = ["page"]
    with pytest.raises(UserError, match="sign in"):
        fetch(tmp_path / "raw")
    server.api_faults["DownloadDataFile"] = [lambda: (200, {"some": "JSON"}, {})]
    with pytest.raises(UserError, match="application/json"):
        fetch(tmp_path / "raw")
    assert not list((tmp_path / "raw").iterdir())


def test_a_changed_file_is_noticed(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = fetch(tmp_path / "raw")
    os.utime(path)  # touched, not changed: read again, kept
    server.log.clear()
    fetch(tmp_path / "raw")
    assert not server.log
    for bytes_ in (DATA + b"S5", DATA[:-1], OTHER):
        path.write_bytes(bytes_)
        assert fetch(tmp_path / "raw")[0].read_bytes() == DATA
        assert "changed since it was checked" in capsys.readouterr().err


def test_a_file_without_receipt_is_not_trusted(server: KaggleServer, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train.zip").write_bytes(OTHER)
    assert fetch(tmp_path / "raw")[0].read_bytes() == DATA


def test_a_file_replaced_between_two_runs(server: KaggleServer, tmp_path: Path) -> None:
    server.blob_faults["train.zip"] = [Fault(cut_at=900_000)] + [Fault(status=400)] * 9
    with pytest.raises(UserError):
        fetch(tmp_path / "raw")
    server.blob_faults.clear()
    server.etags["train.zip"] = '"v2"'
    server.competitions[COMPETITION]["train.zip"] = Blob(OTHER)
    assert fetch(tmp_path / "raw")[0].read_bytes() == OTHER


def test_killed_in_the_middle(server: KaggleServer, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    part = tmp_path / ".download-raw/train.zip.part"

    def grown(size: int) -> bool:
        return part.exists() and part.stat().st_size > size

    for number, how in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)):
        server.blob_faults["train.zip"] = [Fault(rate=7e5)]  # not done before it is killed
        process = subprocess.Popen(
            command(out, "train.zip"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            # What a shell puts in the background ignores Ctrl-C, and so would its children.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(functools.partial(grown, 600_000 * (number + 1)))
        process.send_signal(how)
        _, errors = process.communicate()
        assert process.returncode == {signal.SIGINT: 130}.get(how, -how)
        assert "Traceback" not in errors
        assert not list(out.iterdir())
    had = part.stat().st_size
    assert subprocess.run(command(out, "train.zip"), cwd=ROOT).returncode == 0
    assert (out / "train.zip").read_bytes() == DATA
    assert server.log[-1] == f"GET train.zip bytes={had}-"


def wait_for(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_killed_before_it_got_its_name(server: KaggleServer, tmp_path: Path) -> None:
    """Complete, not yet in place: checked again, not fetched again."""
    folder = tmp_path / ".download-raw"
    folder.mkdir()
    with kaggle_account.connect(QUICK) as account:
        part, _ = transfer.fetch(account.files(COMPETITION, ["train.zip"], [])[0], folder, QUICK)
    receipts.issue(folder, f"competitions/{COMPETITION}/train.zip", part, "train.zip")
    server.log.clear()
    assert fetch(tmp_path / "raw")[0].read_bytes() == DATA
    assert not server.count("GET")
    names = {path.name for path in folder.iterdir()}
    assert names == {f"competitions--{COMPETITION}--train.zip.receipt.json"}


def test_two_processes_at_once(server: KaggleServer, tmp_path: Path) -> None:
    """S6: one works, the other says so; the file is right."""
    server.blob_faults["train.zip"] = [Fault(rate=2e6)]
    first = subprocess.Popen(command(tmp_path / "raw", "train.zip"), cwd=ROOT)
    wait_for(lambda: (tmp_path / ".download-raw/train.zip.part").exists())
    with pytest.raises(UserError, match="another process"):
        fetch(tmp_path / "raw")
    assert first.wait() == 0
    assert (tmp_path / "raw/train.zip").read_bytes() == DATA
    assert server.count("GET train.zip") == 1


def test_disk_full(server: KaggleServer, tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    folder = tmp_path / ".download-raw"
    folder.mkdir()
    (folder / "train.zip.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=os.strerror(errno.ENOSPC)):
        fetch(tmp_path / "raw")
    assert not list((tmp_path / "raw").iterdir())
    (folder / "train.zip.part").unlink()
    assert fetch(tmp_path / "raw")[0].read_bytes() == DATA


def test_disk_that_fills_up_half_way(server: KaggleServer, tmp_path: Path) -> None:
    def limit() -> None:  # a write past it fails, after all that fits was written
        resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))

    run = subprocess.run(
        command(tmp_path / "raw", "train.zip"),
        cwd=ROOT, preexec_fn=limit, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "train.zip.part: File too large; what arrived is kept" in run.stderr
    server.sent.clear()
    assert fetch(tmp_path / "raw")[0].read_bytes() == DATA
    assert server.sent["train.zip"] == len(DATA) - 900_000


def test_disk_too_small_to_begin(server: KaggleServer, tmp_path: Path) -> None:
    server.competitions[COMPETITION]["train.zip"] = Blob(DATA, listed=10**18)
    with pytest.raises(UserError, match="needs 1000000000.00 GB, the disk has"):
        fetch(tmp_path / "raw")
    assert not server.count("GET")
    with pytest.raises(UserError, match="the disk has"):
        files.check_space(tmp_path, 10**18, "train.zip")


def test_unknown_file_and_competition(server: KaggleServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'tran.zip', expected one of list.csv.zip, train.zip"):
        fetch(tmp_path / "raw", "tran.zip")
    section = Competition(
        kind="competition", slug="no-such", files=("train.zip",), optional_files=()
    )
    with pytest.raises(UserError, match="no-such: Kaggle answered 404 .*download.slug"):
        download(section, tmp_path / "raw", None, QUICK)


def test_no_network(server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match="no answer from localhost.*check the network"):
        fetch(tmp_path / "raw")


def local_archives(folder: Path) -> Path:
    place = folder / "here/competitions" / COMPETITION
    place.mkdir(parents=True)
    (place / "train.zip").write_bytes(DATA)
    return folder / "here"


def test_archives_that_are_here_already(server: KaggleServer, tmp_path: Path) -> None:
    here = local_archives(tmp_path)
    (path,) = download(wanted("train.zip"), tmp_path / "raw", here, QUICK)
    assert path.read_bytes() == DATA
    assert path.samefile(here / "competitions" / COMPETITION / "train.zip"), "linked, not copied"
    assert not server.log
    (tmp_path / ".download-raw" / f"competitions--{COMPETITION}--train.zip.receipt.json").unlink()
    assert download(wanted("train.zip"), tmp_path / "raw", here, QUICK) == [path]


def carvana(data: Path, *files: str) -> Path:
    """Another recipe's folder, filled from Kaggle."""
    fetch(data / "carvana/raw", *files)
    return data / "carvana/raw"


def without_kaggle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no credentials."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("KAGGLE_API_TOKEN")


def test_what_another_recipe_has_is_linked(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other, out = carvana(tmp_path, "train.zip", "list.csv.zip"), tmp_path / "mine/raw"
    server.log.clear()
    without_kaggle(monkeypatch)
    paths = fetch(out, "train.zip", "list.csv.zip")
    assert [path.read_bytes() for path in paths] == [DATA, SMALL] and not server.log
    assert [path.samefile(other / path.name) for path in paths] == [True, True]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out / 'train.zip'}: linked from {other / 'train.zip'}"
    assert sorted(path.name for path in (tmp_path / "mine/.download-raw").iterdir()) == [
        f"competitions--{COMPETITION}--list.csv.zip.receipt.json",
        f"competitions--{COMPETITION}--train.zip.receipt.json",
    ]
    shutil.rmtree(tmp_path / "carvana")
    assert fetch(out, "train.zip", "list.csv.zip") == paths, "its receipts are its own"
    assert not capsys.readouterr().out


def test_another_recipe_is_found_from_any_folder(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths as dvc.yaml has them, a bare name, and a folder that is a link to the other's."""
    carvana(tmp_path)
    server.log.clear()
    monkeypatch.chdir(tmp_path.parent)
    assert fetch(Path(tmp_path.name, "mine/raw"))[0].read_bytes() == DATA
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")
    assert fetch(Path("raw"))[0].read_bytes() == DATA
    (tmp_path / "link").mkdir()
    (tmp_path / "link/raw").symlink_to(tmp_path / "carvana/raw")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "carvana")
    assert fetch(tmp_path / "link/raw")[0].read_bytes() == DATA
    assert fetch(tmp_path / "elsewhere/raw")[0].read_bytes() == DATA
    assert not server.log


def test_only_what_no_recipe_has_is_fetched(server: KaggleServer, tmp_path: Path) -> None:
    carvana(tmp_path, "train.zip")
    fetch(tmp_path / "third/raw", "list.csv.zip")
    server.competitions[COMPETITION]["a.zip"] = Blob(OTHER)
    server.log.clear()
    paths = fetch(tmp_path / "mine/raw", "list.csv.zip", "a.zip", "train.zip")
    assert [path.read_bytes() for path in paths] == [SMALL, OTHER, DATA]
    assert [line for line in server.log if line.startswith("GET")] == ["GET a.zip"]


def test_what_another_recipe_spoilt_is_not_taken(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut, changed, or half of it written over; touched, it still is what it was."""
    file = carvana(tmp_path) / "train.zip"
    half = DATA[: len(DATA) // 2] + bytes(len(DATA) - len(DATA) // 2)
    for number, data in enumerate((DATA[:-1], OTHER, half)):
        file.write_bytes(data)
        out = tmp_path / f"mine{number}/raw"
        server.log.clear()
        assert fetch(out)[0].read_bytes() == DATA
        assert f"{file}: changed since it was checked; not taken" in capsys.readouterr().err
        assert not list((out / "../.download-raw").glob("train.zip*")), "nothing is left of it"
        assert server.count("GET train.zip") == 1 and file.read_bytes() == data
        shutil.rmtree(out.parent)
    file.write_bytes(DATA)
    server.log.clear()
    assert fetch(tmp_path / "last/raw")[0].samefile(file) and not server.log


def test_linked_archives_do_not_change_each_other(server: KaggleServer, tmp_path: Path) -> None:
    """What is replaced in one folder stays in the other; what is written over shows in both."""
    other, out = carvana(tmp_path), tmp_path / "mine/raw"
    (path,) = fetch(out)
    (out / "train.zip").unlink()
    (out / "train.zip").write_bytes(OTHER)
    assert (other / "train.zip").read_bytes() == DATA
    assert fetch(out)[0].samefile(other / "train.zip"), "taken again"
    path.write_bytes(OTHER)
    assert (other / "train.zip").read_bytes() == OTHER, "one file"
    server.log.clear()
    assert fetch(out)[0].read_bytes() == fetch(other)[0].read_bytes() == DATA
    assert path.samefile(other / "train.zip") and server.count("GET train.zip") == 1


def test_no_archive_is_taken_that_arrives_at_the_moment(
    server: KaggleServer, tmp_path: Path
) -> None:
    """The other recipe's process goes on undisturbed, and what is half there is left alone."""
    server.blob_faults["train.zip"] = [Fault(rate=1e6)]
    out = tmp_path / "other/raw"
    out.parent.mkdir()
    process = subprocess.Popen(command(out, "train.zip"), cwd=ROOT)
    wait_for(lambda: (tmp_path / "other/.download-raw/train.zip.part").exists())
    (path,) = fetch(tmp_path / "mine/raw")
    assert process.poll() is None, "it was done before it could be looked at"
    assert path.read_bytes() == DATA and not list(out.iterdir())
    assert process.wait() == 0
    assert (out / "train.zip").read_bytes() == DATA and not path.samefile(out / "train.zip")


def test_archives_that_are_replaced_all_the_time(server: KaggleServer, tmp_path: Path) -> None:
    """As a download does it, receipt first: whichever of two files is linked, it fits."""
    other = carvana(tmp_path)
    folder, origin = tmp_path / "carvana/.download-raw", f"competitions/{COMPETITION}/train.zip"
    ended = threading.Event()

    def replace() -> None:
        for data in itertools.cycle((OTHER, DATA)):
            (folder / "fresh").write_bytes(data)
            receipts.keep(folder, origin, folder / "fresh", other / "train.zip")
            if ended.is_set():
                return

    def link(out: Path) -> bool:
        """Whether a new recipe's file came from the other one; it must fit its receipt."""
        server.log.clear()
        (path,) = fetch(out)
        receipt = receipts.find(receipts.folder_of(out), origin)
        assert receipt is not None and receipts.md5(path).hex() == receipt.md5
        assert path.read_bytes() in (DATA, OTHER)
        shutil.rmtree(out.parent)
        return not server.log

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        linked = [link(tmp_path / f"mine{number}/raw") for number in range(40)]
    finally:
        ended.set()
        thread.join()
    assert any(linked), "never taken from the other recipe"


def test_what_had_arrived_is_cleared_away(server: KaggleServer, tmp_path: Path) -> None:
    out = tmp_path / "mine/raw"
    server.blob_faults["train.zip"] = [Fault(cut_at=900_000)] + [Fault(status=400)] * 9
    with pytest.raises(UserError):
        fetch(out)
    part = tmp_path / "mine/.download-raw/train.zip.part"
    assert part.stat().st_size == 900_000
    server.blob_faults.clear()
    carvana(tmp_path)
    fetch(out)
    assert not list(part.parent.glob("train.zip*"))


def test_archives_of_another_competition_are_not_taken(
    server: KaggleServer, tmp_path: Path
) -> None:
    carvana(tmp_path)
    server.competitions["lakes"] = {"train.zip": Blob(OTHER)}
    section = wanted("train.zip").model_copy(update={"slug": "lakes"})
    (path,) = download(section, tmp_path / "lakes/raw", None, QUICK)
    assert path.read_bytes() == OTHER


def test_a_data_set_is_shared_too(server: KaggleServer, tmp_path: Path) -> None:
    server.datasets["owner/some-set"] = Blob(DATA)
    section = Dataset(kind="dataset", slug="owner/some-set")
    (first,) = download(section, tmp_path / "a/raw", None, QUICK)
    server.log.clear()
    (second,) = download(section, tmp_path / "b/raw", None, QUICK)
    assert second.samefile(first) and not server.log


def test_the_data_folder_comes_alone(server: KaggleServer, tmp_path: Path) -> None:
    """Another recipe's file neither goes before it nor fills its gaps."""
    carvana(tmp_path, "train.zip", "list.csv.zip")
    here = local_archives(tmp_path)
    (here / "competitions" / COMPETITION / "train.zip").write_bytes(OTHER)
    (path,) = download(wanted("train.zip"), tmp_path / "mine/raw", here, QUICK)
    assert path.read_bytes() == OTHER
    with pytest.raises(UserError, match=r"list.csv.zip: no such file; PIPELINE_DATA is set"):
        download(wanted("list.csv.zip"), tmp_path / "mine/raw", here, QUICK)


def test_optional_files_of_another_recipe(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken where it has them; what Kaggle did not offer then, it is not asked for now."""
    fetch_optional(tmp_path / "carvana/raw")
    server.log.clear()
    without_kaggle(monkeypatch)
    paths = fetch_optional(tmp_path / "mine/raw")
    assert [path.name for path in paths] == ["list.csv.zip", "train.zip"]
    shutil.rmtree(tmp_path / "carvana")
    assert fetch_optional(tmp_path / "mine/raw") == paths and not server.log


def test_an_optional_file_that_nobody_asked_for_yet(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle is asked; a run that did without because it is away would not be the same run."""
    carvana(tmp_path)
    with monkeypatch.context() as away:
        without_kaggle(away)
        words = r"^not-offered.jpg: optional, all other files are here.*no Kaggle credentials.*or "
        with pytest.raises(UserError, match=words + "take it out of download.optional_files"):
            fetch_optional(tmp_path / "mine/raw", files=OPTIONAL[1:])
        with pytest.raises(UserError, match="^found no Kaggle credentials"):
            fetch_optional(tmp_path / "fourth/bare")
        assert len(fetch_optional(tmp_path / "mine/raw", files=())) == 1
    server.log.clear()
    assert len(fetch_optional(tmp_path / "mine/raw", files=OPTIONAL[1:])) == 1
    assert server.count("POST ListDataFiles") == 1 and not server.count("GET")


def test_archives_on_another_file_system(server: KaggleServer, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    folder = shared / f"archives-{os.getpid()}"
    try:
        here = local_archives(folder)
        (path,) = download(wanted("train.zip"), tmp_path / "raw", here, QUICK)
        assert path.read_bytes() == DATA
        (folder / "mine").mkdir()
        (tmp_path.parent / "mine").symlink_to(folder / "mine")
        (copy,) = fetch(tmp_path.parent / "mine/raw")
        assert copy.read_bytes() == DATA and not copy.samefile(path)
        assert not server.log, "copied from the other recipe"
    finally:
        shutil.rmtree(folder)


def test_archives_that_are_here_but_damaged(server: KaggleServer, tmp_path: Path) -> None:
    here = local_archives(tmp_path)
    source = here / "competitions" / COMPETITION / "train.zip"
    source.write_bytes(bytes(BAD_CRC))
    with pytest.raises(UserError, match=r"train.zip: the checksum of its member train/a.jpg"):
        download(wanted("train.zip"), tmp_path / "raw", here, QUICK)
    assert not list((tmp_path / "raw").iterdir()) and source.read_bytes() == bytes(BAD_CRC)


def test_an_archive_that_is_not_here(server: KaggleServer, tmp_path: Path) -> None:
    here = local_archives(tmp_path)
    with pytest.raises(UserError, match=f"{COMPETITION}/list.csv.zip: no such file.*unset"):
        download(wanted("train.zip", "list.csv.zip"), tmp_path / "raw", here, QUICK)
    assert not server.log, "the rest is not fetched from Kaggle in silence"


def bundled(place: Path, *members: str) -> Path:
    """Kaggle's bundle of a competition's files, whose archives are members."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{COMPETITION}.zip"
    path.write_bytes(zipped({name: SMALL for name in members}))
    return path


@pytest.mark.parametrize("place", ["", "competitions", f"competitions/{COMPETITION}"])
def test_a_bundle_that_is_not_unpacked(tmp_path: Path, place: str) -> None:
    """The error says what to run, and that works."""
    here, out = tmp_path / "all my data", tmp_path / "raw"
    bundle = bundled(here / place, "list.csv.zip", "train.zip")
    with pytest.raises(UserError) as caught:
        download(wanted("train.zip"), out, here, QUICK)
    message, folder = str(caught.value), here / "competitions" / COMPETITION
    assert message.startswith(f"{folder / 'train.zip'}: no such file;") and "\n" not in message
    assert f"{bundle} holds it: unpack that to {folder}" in message
    advice = re.search(r"\((python -m zipfile .*)\)$", message)
    assert advice is not None
    subprocess.run([sys.executable, *shlex.split(advice[1])[1:]], check=True)
    assert download(wanted("train.zip"), out, here, QUICK)[0].read_bytes() == SMALL


def test_a_bundle_that_does_not_help(tmp_path: Path) -> None:
    bundle = bundled(tmp_path / "here", *(f"{letter}.csv" for letter in "abcdefgh"))
    with pytest.raises(UserError, match=r"does not hold it \(it has a.csv, .*f.csv, ...\): put "):
        download(wanted("train.zip"), tmp_path / "raw", tmp_path / "here", QUICK)
    bundle.write_bytes(bundle.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"challenge.zip may hold it, but is no whole zip"):
        download(wanted("train.zip"), tmp_path / "raw", tmp_path / "here", QUICK)
    bundle.rename(bundle.with_name("some-set.zip"))
    with pytest.raises(UserError, match="some-set.zip: no such file.*put the file there, or unset"):
        section = Dataset(kind="dataset", slug="owner/some-set")
        download(section, tmp_path / "raw", tmp_path / "here", QUICK)


def test_a_data_folder_that_is_no_folder(server: KaggleServer, tmp_path: Path) -> None:
    run = subprocess.run(
        command(tmp_path / "raw", "train.zip"), cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PIPELINE_DATA": "/no/such/folder"},
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("error: PIPELINE_DATA: found '/no/such/folder'")


def draw_quickly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let nothing but the seed be drawn; the seeds that were."""
    drawn: list[int] = []

    def draw(wanted: Synthetic, out: Path) -> None:
        drawn.append(wanted.seed)
        for name in ("metadata.csv.zip", "train.zip"):
            with zipfile.ZipFile(out / name, "w") as archive:
                archive.writestr("seed", str(wanted.seed))

    monkeypatch.setattr(stage, "_run_sample", draw)  # drawing takes long
    return drawn


def test_the_sample_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = Synthetic(kind="synthetic", train_cars=1, test_cars=1, seed=1)
    out, drawn = tmp_path / "raw", draw_quickly(monkeypatch)
    monkeypatch.chdir(ROOT)
    paths = download(section, out, None, QUICK)
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert download(section, out, None, QUICK) == paths
    assert {path: path.stat().st_mtime_ns for path in paths} == before and drawn == [1]

    recorded = tmp_path / ".download-raw/sample.json"
    content = json.loads(recorded.read_text())
    content["settings"]["code"] = "other"  # as if drawn by other code
    recorded.write_text(json.dumps(content))
    assert download(section, out, None, QUICK) == paths and drawn == [1, 1]


def test_a_sample_without_its_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = Synthetic(kind="synthetic", train_cars=1, test_cars=1, seed=1)
    with pytest.raises(UserError, match="no program sample/ here"):
        download(section, tmp_path / "raw", None, QUICK)


def test_a_stopped_redraw_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = (
        Synthetic(kind="synthetic", train_cars=1, test_cars=1, seed=seed) for seed in (1, 2)
    )
    out, keep = tmp_path / "raw", receipts.keep
    draw_quickly(monkeypatch)
    monkeypatch.chdir(ROOT)
    whole = [path.read_bytes() for path in download(first, out, None, QUICK)]

    def keep_one(folder: Path, origin: str, part: Path, target: Path) -> None:
        if target != out / "metadata.csv.zip":
            raise KeyboardInterrupt
        keep(folder, origin, part, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(receipts, "keep", keep_one)
        download(other, out, None, QUICK)
    assert (out / "metadata.csv.zip").read_bytes() != whole[0], "the redraw got so far"
    assert [path.read_bytes() for path in download(first, out, None, QUICK)] == whole


def test_a_zip_of_another_make_is_taken(tmp_path: Path, server: KaggleServer) -> None:
    """Deflated, with a comment and without a member: all are whole zips."""
    for number, (members, comment) in enumerate(((["a"], b"by hand"), ([], b""), (["a"], b""))):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = comment
            for member in members:
                archive.writestr(member, "x" * 1000)
        server.competitions[COMPETITION]["z.zip"] = Blob(buffer.getvalue())
        (path,) = fetch(tmp_path / f"raw{number}", "z.zip")
        assert path.read_bytes() == buffer.getvalue()


def test_dvc_has_nothing_against_a_link(server: KaggleServer, tmp_path: Path) -> None:
    """Two recipes, one of them new: one download, and both are up to date ever after."""
    clone = copy_project(tmp_path / "clone")
    section: dict[str, object] = {
        "kind": "competition", "slug": COMPETITION, "files": ["train.zip"], "optional_files": [],
    }  # fmt: skip
    for name in ("first", "second"):
        recipe(clone / f"recipes/{name}.yaml", section)

    def dvc(*arguments: str, recipes: str) -> str:
        (clone / "params.yaml").write_text(f"recipes: {recipes}\nfolds: [0]\n")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            [str(Path(sys.executable).with_name("dvc")), *arguments],
            cwd=clone, env=environment, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip

    first, second = (clone / f"data/{name}/raw/train.zip" for name in ("first", "second"))
    dvc("repro", "download", recipes="[first]")
    said = dvc("repro", "download", recipes="[first, second]")
    assert "data/second/raw/train.zip: linked from data/first/raw/train.zip" in said
    assert second.samefile(first) and server.count("GET train.zip") == 1
    for name in ("first", "second"):
        said = dvc("repro", "download", recipes=f"[{name}]")
        assert "Running stage" not in said and "up to date" in said
    assert "up to date" in dvc("status", "download", recipes="[first, second]")
    dvc("commit", "-f", "download", recipes="[first, second]")
    assert second.samefile(first) and os.access(first, os.W_OK), "not moved to DVC's cache"
    first.unlink()
    said = dvc("repro", "download", recipes="[first, second]")
    assert "Running stage 'download@first'" in said and "download@second'" in said
    assert "Running stage 'download@second'" not in said
    assert first.samefile(second) and server.count("GET train.zip") == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="PIPELINE_DATA names no folder with real archives")
def test_dvc_repro_killed_and_resumed(server: KaggleServer, tmp_path: Path) -> None:
    """`recipes: [carvana]` on the real archives, from Kaggle, killed half-way; then split runs."""
    section = read.load(ROOT / "recipes/carvana.yaml").download
    assert isinstance(section, Competition)
    server.competitions[COMPETITION] = {name: Blob(REAL / name) for name in section.files}
    clone = cloned(tmp_path)
    command = [str(Path(sys.executable).with_name("dvc")), "repro", "split"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    server.blob_faults["train.zip"] = [Fault(rate=20e6)]
    process = subprocess.Popen(command, cwd=clone, env=environment, start_new_session=True)
    part = clone / "data/carvana/.download-raw/train.zip.part"
    half = (REAL / "train.zip").stat().st_size // 2
    wait_for(lambda: part.exists() and part.stat().st_size > half)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    had = part.stat().st_size
    assert not (clone / "data/carvana/raw/train.zip").exists()

    subprocess.run(command, cwd=clone, env=environment, check=True)
    assert f"GET train.zip bytes={had}-" in server.log and server.count("GET train.zip") == 2
    for name in section.files:
        assert filecmp.cmp(REAL / name, clone / "data/carvana/raw" / name, shallow=False)
        assert not (REAL / name).samefile(clone / "data/carvana/raw" / name)
    rows = (clone / "data/carvana/samples.csv").read_text().splitlines()
    assert rows[0].startswith("sample_id,split,") and len(rows) > 1


def cloned(folder: Path) -> Path:
    """A clone of the working tree with the competition switched on."""
    clone = copy_project(folder / "clone")
    settings = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(re.sub(r"recipes: \[.*?\]", "recipes: [carvana]", settings))
    return clone
