import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

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


def test_what_interrupts_may_have_words_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main() -> None:
        raise KeyboardInterrupt("interrupted: and so on")

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "interrupted: and so on\n"


@pytest.mark.parametrize(
    "prints",
    [
        "while sys.stdin.read() == '': print('a line', flush=True)",
        "sys.stdin.read(); print('a line')",  # which waits in a buffer
    ],
)
def test_the_end_of_a_pipe_ends_the_command_without_a_word(prints: str) -> None:
    code = "\n".join(
        [
            "import sys; from pipeline.support.errors import command",
            "def main():",
            f"    {prints}",
            "command(main)()",
        ]
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        process.stdout.close()
        process.stdin.close()
        assert process.stderr and process.stderr.read() == b""
    assert process.returncode == 141


def test_another_pipe_that_breaks_is_a_defect(capfd: pytest.CaptureFixture[str]) -> None:
    @command
    def main() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        main()


def test_a_defect_keeps_its_traceback() -> None:
    @command
    def main() -> None:
        raise IndexError

    with pytest.raises(IndexError):
        main()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.b/c?GoogleAccessId=x&Expires=1&Signature=abc, again", "https://a.b/c?[hidden]"),
        ("exceeded with url: /up/1?upload_id=abc (Caused by", "with url: /up/1?[hidden] (Caused"),
        ("http://alice:abcdef@proxy:80", "http://[hidden]@proxy:80"),
        ("Invalid header value b'Bearer abcdefgh\\n'", "value b'Bearer [hidden]\\n'"),
        ("Authorization: Basic YWxpY2U6c2VjcmV0", "Authorization: Basic [hidden]"),
        ("the token KGAT_abcdef", "the token [hidden]"),
        (
            "is it there? Basic transforms; threshold=1",
            "is it there? Basic transforms; threshold=1",
        ),
    ],
)
def test_no_message_holds_what_looks_secret(text: str, shown: str) -> None:
    assert shown in str(UserError(text)) and ("abc" not in str(UserError(text)))
