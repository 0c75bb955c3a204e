import gzip
import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from isal.isal_zlib import IsalError

from pipeline.predict.gzip_member import Member, PieceFile


def text(seed: int, length: int) -> bytes:
    return np.random.default_rng(seed).choice(list(b"0123456789 "), length).astype("u1").tobytes()


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_pieces_join_to_one_member(tmp_path: Path, level: int) -> None:
    parts = [text(i, length) for i, length in enumerate((5, 0, 300_000, 1, 70_000))]
    joined = io.BytesIO()
    member = Member(joined)
    for number, part in enumerate(parts):
        if number % 2:
            member.add(part, level)
            continue
        with PieceFile(tmp_path / "piece", level) as piece:
            piece.add(part[:1000])
            piece.add(part[1000:])
        member.add_file(tmp_path / "piece")
    member.end()
    whole = b"".join(parts)
    assert gzip.decompress(joined.getvalue()) == whole  # which checks CRC and length
    stream = zlib.decompressobj(wbits=31)
    assert stream.decompress(joined.getvalue()) == whole
    assert stream.eof and not stream.unused_data
    assert joined.getvalue()[:8] == b"\x1f\x8b\x08\x00" + bytes(4)  # no name, no time


def test_a_member_of_nothing(tmp_path: Path) -> None:
    file = io.BytesIO()
    Member(file).end()
    assert gzip.decompress(file.getvalue()) == b""


def test_a_failed_piece_has_no_checks(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), PieceFile(tmp_path / "piece", 2):
        raise RuntimeError
    assert os.path.getsize(tmp_path / "piece") == 0


def test_a_wrong_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ValueError, IsalError)):
        PieceFile(tmp_path / "piece", 9)
