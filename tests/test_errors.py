import pytest
import torch

from pipeline.support.errors import UserError, command


def test_a_user_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main() -> None:
        raise UserError("file.zip: missing; download it")

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == "error: file.zip: missing; download it"  # text means exit code 1


class Broken(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError("file.zip: missing: download it")


def test_an_error_in_a_worker_is_the_same_line() -> None:
    @command
    def main() -> None:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == "error: file.zip: missing: download it"


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback() -> None:
    @command
    def main() -> None:
        raise IndexError

    with pytest.raises(IndexError):
        main()
