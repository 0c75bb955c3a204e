"""A transfer against a Kaggle on 127.0.0.1, through the real client.

Whatever goes wrong on the way, it ends with exactly the right bytes, or with an error and no
file under the final name; and the next run, with nothing wrong, makes it right.
"""

import dataclasses
import errno
import functools
import itertools
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kaggle_server
import pytest
from conftest import ROOT, jpeg, tiny_image, tiny_mask
from downloads import (
    DATA,
    OTHER,
    QUICK,
    SMALL,
    fetch,
    get,
    names,
    origin,
    program,
    wait_for,
    wanted,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kaggle_server import COMPETITION, Blob, Fault, KaggleServer, noise, zipped

from pipeline.download import store
from pipeline.kaggle import retry
from pipeline.kaggle.retry import RetryPolicy
from pipeline.support import files
from pipeline.support.errors import UserError

PAGE = b"<!DOCTYPE html><html><body>Please sign in to this network</body></html>"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with kaggle_server.serving(tmp_path, monkeypatch) as server:
        server.competitions[COMPETITION] = {"train.zip": Blob(DATA), "list.csv.zip": Blob(SMALL)}
        yield server


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
    (path,) = fetch(tmp_path)
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["train.zip"]
    assert names(origin(tmp_path)) == ["receipts.json", "train.zip"]


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
    with pytest.raises(UserError) as caught:
        fetch(tmp_path, "list.csv.zip", "train.zip")
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert "X-Signature" not in str(caught.value), "a signed address is a secret"
    kept = [name for name in names(origin(tmp_path)) if name.endswith("zip")]
    assert kept == ["list.csv.zip"] and names(tmp_path / "mine/raw") == []

    server.blob_faults["train.zip"].clear()
    server.log.clear()
    assert fetch(tmp_path, "list.csv.zip", "train.zip")[1].read_bytes() == DATA
    assert not server.count("GET list.csv.zip"), "what was right is not fetched again"
    if "900_000" in text.replace(",", "_"):
        assert server.count("GET train.zip bytes=900000-") == server.count("GET train.zip") == 1


def test_the_client_itself_accepts_what_is_refused_here(
    server: KaggleServer, tmp_path: Path
) -> None:
    """The faults are real: the client's own download calls each of these a success."""
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    api.authenticate()
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
    data = tmp_path / str(next(COUNTER))
    server.blob_faults["train.zip"] = [Fault(cut_at=cut, reset=resets) for cut in cuts]
    policy = RetryPolicy(attempts=9, first_pause=0.001, longest_pause=0.002, connect=2, read=2)
    (path,) = fetch(data, policy=policy)
    assert path.read_bytes() == DATA


COUNTER = itertools.count()


def test_every_byte_that_arrived_is_kept(server: KaggleServer, tmp_path: Path) -> None:
    """The client loses up to 1 MiB at a cut and never ends where cuts come sooner."""
    cuts = range(100_000, len(DATA), 100_000)
    server.blob_faults["train.zip"] = [Fault(cut_at=cut) for cut in cuts]
    server.sent.clear()
    (path,) = fetch(tmp_path)
    assert path.read_bytes() == DATA
    assert server.sent["train.zip"] == len(DATA)


def test_a_file_without_length_and_hash(server: KaggleServer, tmp_path: Path) -> None:
    """Only the listing's size can show that a CSV is whole."""
    text = b"img,mask\n" * 1000
    server.competitions[COMPETITION]["a.csv"] = Blob(text, kind="text/csv", hashes=())
    server.blob_faults["a.csv"] = [Fault(length=False, cut_at=5_000)]
    assert fetch(tmp_path, "a.csv")[0].read_bytes() == text
    server.blob_faults["a.csv"] = [Fault(length=False, cut_at=5_000)] * 9
    with pytest.raises(UserError, match="a.csv"):
        fetch(tmp_path / "2", "a.csv")
    assert not list((tmp_path / "2/mine/raw").iterdir())


def test_crc32c_is_checked_where_there_is_no_md5(server: KaggleServer, tmp_path: Path) -> None:
    data = zipped({"a": noise(40_003)})
    server.competitions[COMPETITION]["joined.zip"] = Blob(data, hashes=("crc32c",))
    assert fetch(tmp_path, "joined.zip")[0].read_bytes() == data


def test_an_api_that_stumbles(server: KaggleServer, tmp_path: Path) -> None:
    def busy() -> kaggle_server.Reply:
        return 429, {"code": 429, "message": "Too many requests"}, {"Retry-After": "0"}

    def broken() -> kaggle_server.Reply:
        return 502, {}, {}

    server.api_faults["IntrospectToken"] = ["drop"]
    server.api_faults["ListDataFiles"] = [busy, broken]
    server.api_faults["DownloadDataFile"] = ["drop", "stall"]
    assert fetch(tmp_path)[0].read_bytes() == DATA


def test_a_page_instead_of_an_answer(server: KaggleServer, tmp_path: Path) -> None:
    server.api_faults["ListDataFiles"] = ["page"]
    with pytest.raises(UserError, match="sign in"):
        fetch(tmp_path)
    server.api_faults["DownloadDataFile"] = [lambda: (200, {"some": "JSON"}, {})]
    with pytest.raises(UserError, match="application/json"):
        fetch(tmp_path)
    assert not list((tmp_path / "mine/raw").iterdir())


def test_a_file_replaced_between_two_runs(server: KaggleServer, tmp_path: Path) -> None:
    server.blob_faults["train.zip"] = [Fault(cut_at=900_000)] + [Fault(status=400)] * 9
    with pytest.raises(UserError):
        fetch(tmp_path)
    server.blob_faults.clear()
    server.etags["train.zip"] = '"v2"'
    server.competitions[COMPETITION]["train.zip"] = Blob(OTHER)
    assert fetch(tmp_path)[0].read_bytes() == OTHER


def test_killed_in_the_middle(server: KaggleServer, tmp_path: Path) -> None:
    part = origin(tmp_path) / "train.zip.part"

    def grown(size: int) -> bool:
        return part.exists() and part.stat().st_size > size

    for number, how in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)):
        server.blob_faults["train.zip"] = [Fault(rate=7e5)]  # not done before it is killed
        process = subprocess.Popen(
            program(tmp_path, "train.zip"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            # What a shell puts in the background ignores Ctrl-C, and so would its children.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(functools.partial(grown, 600_000 * (number + 1)), process)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGINT: 130}.get(how, -how)
        assert "Traceback" not in errors
        assert not (origin(tmp_path) / "train.zip").exists() and not names(tmp_path / "mine/raw")
    had = part.stat().st_size
    assert subprocess.run(program(tmp_path, "train.zip"), cwd=ROOT).returncode == 0
    assert (tmp_path / "mine/raw/train.zip").read_bytes() == DATA
    assert server.log[-1] == f"GET train.zip bytes={had}-"


def test_killed_before_it_got_its_name(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete, not yet in place: checked again, its last byte fetched again, no more."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "move", killed)
        fetch(tmp_path)
    assert names(tmp_path / "mine/raw") == []
    server.log.clear()
    server.sent.clear()
    assert fetch(tmp_path)[0].read_bytes() == DATA
    assert server.count("GET") == server.sent["train.zip"] == 1
    assert names(origin(tmp_path)) == ["receipts.json", "train.zip"]


def test_what_is_complete_is_not_trusted_unasked(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may have been replaced on the server since."""
    test_killed_before_it_got_its_name(server, tmp_path / "whole", monkeypatch)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fetch(tmp_path)
    server.etags["train.zip"] = '"v2"'
    server.competitions[COMPETITION]["train.zip"] = Blob(OTHER)
    assert fetch(tmp_path)[0].read_bytes() == OTHER


def test_two_processes_at_once(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """S6: one works, the other waits and finds the file."""
    server.blob_faults["train.zip"] = [Fault(rate=2e6)]
    first = subprocess.Popen(program(tmp_path, "train.zip"), cwd=ROOT)
    wait_for(lambda: (origin(tmp_path) / "train.zip.part").exists(), first)
    (path,) = get(wanted("train.zip"), tmp_path, "other")
    assert "another download is at work here" in capsys.readouterr().err
    assert first.wait(timeout=60) == 0
    assert path.read_bytes() == DATA and path.samefile(tmp_path / "mine/raw/train.zip")
    assert server.count("GET train.zip") == 1


def test_disk_that_fills_up_half_way(server: KaggleServer, tmp_path: Path) -> None:
    def limit() -> None:  # a write past it fails, after all that fits was written
        resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))

    run = subprocess.run(
        program(tmp_path, "train.zip"),
        cwd=ROOT, preexec_fn=limit, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "train.zip.part: File too large; what arrived is kept" in run.stderr
    server.sent.clear()
    assert fetch(tmp_path)[0].read_bytes() == DATA
    assert server.sent["train.zip"] == len(DATA) - 900_000


def test_disk_too_small_to_begin(server: KaggleServer, tmp_path: Path) -> None:
    server.competitions[COMPETITION]["train.zip"] = Blob(DATA, listed=10**18)
    with pytest.raises(UserError, match="needs 1000000000.00 GB, the disk has"):
        fetch(tmp_path)
    assert not server.count("GET")
    with pytest.raises(UserError, match="the disk has"):
        files.check_space(tmp_path, 10**18, "train.zip")


def test_unknown_file_and_competition(server: KaggleServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'tran.zip', expected one of list.csv.zip, train.zip"):
        fetch(tmp_path, "tran.zip")
    with pytest.raises(UserError, match="no-such: Kaggle answered 404 .*download.slug"):
        get(wanted("train.zip", slug="no-such"), tmp_path)


def test_no_network(server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match="no answer from localhost.*check the network"):
        fetch(tmp_path)


# --- a file that comes without a hash: the loose picture of a competition

PICTURE = jpeg(tiny_image(tiny_mask(0), 0))
OTHER_PICTURE = jpeg(tiny_image(tiny_mask(9), 9))
HALF = len(PICTURE) // 2
SPLICE = PICTURE[:HALF] + (OTHER_PICTURE * 9)[HALF : len(PICTURE)]
JSON = b'{"code": 404, "message": "There is nothing of that name here"}'
XML = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
UNPROVEN: dict[str, tuple[Fault, str]] = {
    "splice": (
        Fault(data=PICTURE[:HALF] + (OTHER_PICTURE * 9)[HALF : len(PICTURE)]),
        "wrong bytes",
    ),
    "half": (Fault(data=PICTURE[:HALF]), "bytes are to come, the listing says"),
    "empty": (Fault(data=b""), "0 bytes are to come"),
    "empty, no length": (Fault(data=b"", length=False), "at byte 0"),
    "bare 206": (Fault(bare_206=True), "answer 206"),
    "JSON": (Fault(data=JSON, kind="application/json"), "a page of type application/json"),
    "XML": (Fault(data=XML, kind="application/xml"), "a page of type application/xml"),
    "HTML": (Fault(data=PAGE, kind="text/html; charset=utf-8"), "a page of type text/html"),
    "JSON, of the right length": (Fault(data=JSON.ljust(len(PICTURE))), "not a whole picture"),
    "XML, of the right length": (Fault(data=XML.ljust(len(PICTURE))), "a web page"),
    "302 without an address": (Fault(status=302), "answer 302 from the storage"),
}


@pytest.mark.parametrize(("fault", "text"), UNPROVEN.values(), ids=UNPROVEN)
def test_a_picture_without_a_hash(
    server: KaggleServer, tmp_path: Path, fault: Fault, text: str
) -> None:
    server.competitions[COMPETITION]["a.jpg"] = Blob(PICTURE, kind="image/jpeg", hashes=())
    server.blob_faults["a.jpg"] = [fault] * 9
    with pytest.raises(UserError, match=text) as caught:
        fetch(tmp_path, "a.jpg")
    assert "\n" not in str(caught.value)
    assert "a.jpg" not in names(origin(tmp_path)) and names(tmp_path / "mine/raw") == []
    server.blob_faults["a.jpg"] = []
    assert fetch(tmp_path, "a.jpg")[0].read_bytes() == PICTURE


# --- answers that cannot be read, and those without an end


def test_a_length_that_is_no_number(server: KaggleServer, tmp_path: Path) -> None:
    for number, length in enumerate(("abc", "-5", "1e3", "", "\u00b2")):
        headers = {"Content-Length": length, "Connection": "close"}
        server.blob_faults["train.zip"] = [Fault(length=False, headers=headers)]
        assert fetch(tmp_path / str(number))[0].read_bytes() == DATA


def test_a_body_without_an_end(server: KaggleServer, tmp_path: Path) -> None:
    """The disk is not filled with it."""
    server.blob_faults["train.zip"] = [Fault(data=DATA * 9, length=False)] * 9
    with pytest.raises(UserError, match=r"train.zip: wrong bytes .*it goes on behind byte 6,"):
        fetch(tmp_path)
    server.blob_faults.clear()
    assert fetch(tmp_path)[0].read_bytes() == DATA


def test_a_server_that_hardly_sends(
    server: KaggleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte now and then is no silence; it is broken off, said, and gone on with."""
    policy = dataclasses.replace(QUICK, attempts=4, window=0.2, slowest=10_000)
    drip = Fault(drip_at=900_000)
    server.blob_faults["train.zip"] = [drip, drip]
    assert fetch(tmp_path / "passes", policy=policy)[0].read_bytes() == DATA
    assert re.search(r"train.zip: it brought [\d,]+ bytes in 0 s; goes on", capsys.readouterr().err)
    server.blob_faults["train.zip"] = [drip] * 99
    with pytest.raises(UserError, match=r"broke 4 times at byte 900,\d+ .*what arrived is kept"):
        fetch(tmp_path / "lasts", policy=policy)
    assert len(server.blob_faults["train.zip"]) > 90, "bytes that hardly come earn no new tries"
    server.blob_faults.clear()
    assert fetch(tmp_path / "lasts")[0].read_bytes() == DATA
    assert re.fullmatch(r"GET train.zip bytes=900\d\d\d-", server.log[-1])


@pytest.mark.parametrize("text", ["{}", "[]", "null", "\xff", '{"expected": {}}'])
def test_a_planted_note_beside_what_arrived(
    server: KaggleServer, tmp_path: Path, text: str
) -> None:
    origin(tmp_path).mkdir(parents=True)
    (origin(tmp_path) / "train.zip.part").write_bytes(OTHER[:1000])
    (origin(tmp_path) / "train.zip.part.json").write_text(text, encoding="latin-1")
    assert fetch(tmp_path)[0].read_bytes() == DATA


# --- a file system that refuses


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "mkdir", "link", "replace", "unlink", "stat"])
def test_what_a_file_system_refuses_is_one_line(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """At whichever call, below the folder of data alone."""
    real = {name: getattr(os, name) for name in ("open", "mkdir", "link", "replace", "unlink")}

    def refuse(path: object, *rest: object, **options: object) -> object:
        if str(path).startswith(str(tmp_path / "data")):
            raise OSError(number, os.strerror(number), str(path))
        return real[call](path, *rest, **options)

    if call == "stat":
        (tmp_path / "data").write_text("a file where the folder should be")
    else:
        monkeypatch.setattr(os, call, refuse)
    if call == "link":  # a disk without links: a copy
        assert fetch(tmp_path / "data")[0].read_bytes() == DATA
        return
    with pytest.raises(UserError) as caught:
        fetch(tmp_path / "data")
    assert str(tmp_path / "data") in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_without_an_end(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that only say wait, one after the other."""
    monkeypatch.setattr(retry, "_HEADER", 0.3)
    server.blob_faults["train.zip"] = [Fault(waits=True)]
    assert fetch(tmp_path / "passes")[0].read_bytes() == DATA
    server.blob_faults["train.zip"] = [Fault(waits=True)] * 9
    with pytest.raises(UserError, match="train.zip: no answer from storage.test"):
        fetch(tmp_path / "lasts")
