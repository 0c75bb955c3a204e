"""What tune decided is read strictly, and masks are made of it in one place."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.decision import Decision
from pipeline.levels import scale
from pipeline.masks.clean_up import CleanUp, clean
from pipeline.support.errors import UserError


def test_a_decision_is_read_as_tune_writes_it(tmp_path: Path) -> None:
    path, repairs = tmp_path / "metrics.json", CleanUp(drop_specks=9, fill_holes=400)
    path.write_text(json.dumps(Decision(100, repairs).as_metrics()))
    found = Decision.read(path)
    assert found == Decision(100, repairs) and found.threshold == 100 / 256
    levels = np.random.default_rng(0).integers(256, size=(20, 30)).astype(np.uint8)
    full = scale.full_resolution(levels, (40, 61))
    np.testing.assert_array_equal(found.mask(levels, (40, 61)), clean(full >= 100, repairs))


NONE = dataclasses.asdict(CleanUp())


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"\xff", b'{"threshold": 0.5',
        json.dumps({"threshold": "0.5", "clean_up": NONE}).encode(),
        json.dumps({"threshold": 7, "clean_up": NONE}).encode(),
        json.dumps({"threshold": None, "clean_up": NONE}).encode(),
        json.dumps({"threshold": -0.1, "clean_up": NONE}).encode(),
        json.dumps({"threshold": True, "clean_up": NONE}).encode(),
        json.dumps({"threshold": 0.5, "clean_up": NONE | {"close": 1.5}}).encode(),
        json.dumps({"threshold": 0.5}).encode(),
        json.dumps({"threshold": 0.5, "clean_up": NONE | {"close": -1}}).encode(),
        json.dumps({"threshold": 0.5, "clean_up": {"close": 1}}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_decision_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.json: .*run the tune stage again") as raised:
        Decision.read(path)
    assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(UserError, match="no such file; run the tune stage first"):
        Decision.read(path)
