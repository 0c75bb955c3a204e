import subprocess
import sys
from pathlib import Path

import torch
from conftest import ROOT

from pipeline.support import tensor_file

FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from pipeline.support import tensor_file
from pipeline.support.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    tensor_file.save(Path(sys.argv[1]), {"x": torch.zeros(10_000)})
except UserError as error:
    print(error)
"""


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    tensor_file.save(tmp_path / "a.pt", {"x": torch.arange(3)})
    assert torch.load(tmp_path / "a.pt", weights_only=True)["x"].tolist() == [0, 1, 2]


def test_a_disk_that_takes_no_more_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"before")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.startswith(f"{path}: File too large; ") and done.stdout.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    assert path.read_bytes() == b"before"
