"""How the command line reads, writes and fails: limits, modes, and what happens when something breaks."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtc.cli import main
from mtc.cli.output import MAX_INPUT_BYTES, read_input, write_new_file
from mtc.errors import Reason, UsageError


class BreakingStream(io.RawIOBase):
    """A standard input that breaks when it is read."""

    def __init__(self, error: BaseException) -> None:
        """Take the exception to raise."""
        self.error = error

    def readable(self) -> bool:
        """Promise to be readable."""
        return True

    def readinto(self, _: object) -> int:
        """Break the promise."""
        raise self.error


@pytest.fixture
def break_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that makes standard input break with an exception."""

    def break_with(error: BaseException) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(BreakingStream(error))))
        monkeypatch.setattr(sys, "argv", ["mtc", "trust", "from-ca", "-"])

    return break_with


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupt"),
        (RuntimeError("wires crossed"), 2, "defect in mtc, please report it: RuntimeError: wires crossed"),
        (OSError(5, "Input/output error"), 2, "standard input cannot be read: input/output error"),
        (BrokenPipeError(32, "Broken pipe"), 2, "standard input cannot be read: broken pipe"),
    ],
)
def test_what_breaks_is_told_in_a_line(
    break_input: Callable[[BaseException], None],
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    """An interrupt, a defect of ours and a broken input end with a code and a line, without a traceback."""
    break_input(error)
    with pytest.raises(SystemExit) as left:
        main()
    captured = capfd.readouterr()
    assert left.value.code == code
    assert captured.out == ""
    assert text.lower() in captured.err.lower() or isinstance(error, KeyboardInterrupt)
    assert "Traceback" not in captured.err


def test_a_defect_is_shown_on_request(
    break_input: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MTC_DEBUG set the exception comes through as it is."""
    monkeypatch.setenv("MTC_DEBUG", "1")
    break_input(RuntimeError("wires crossed"))
    with pytest.raises(RuntimeError, match="wires crossed"):
        main()


def test_input_has_a_limit(tmp_path: Path) -> None:
    """A file of the largest size is read, a larger one refused."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(MAX_INPUT_BYTES)
    assert len(read_input(str(path))) == MAX_INPUT_BYTES
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(UsageError) as caught:
        read_input(str(path))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("name", ["", "no/such/file", "a\x00b", "x" * 5000])
def test_what_is_no_file_is_unreadable(name: str) -> None:
    """Names that the system refuses are told apart from files by one reason."""
    with pytest.raises(UsageError) as caught:
        read_input(name)
    assert caught.value.reason is Reason.UNREADABLE


def test_private_files_are_private(tmp_path: Path) -> None:
    """A private file is created with mode 0600, also where another file was before."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"old and open")
    path.chmod(0o644)
    write_new_file(path, b"secret", is_private=True)
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    write_new_file(tmp_path / "public", b"open")
    assert (tmp_path / "public").read_bytes() == b"open"


@pytest.mark.parametrize("is_private", [True, False])
def test_what_cannot_be_written_is_told(tmp_path: Path, is_private: bool) -> None:  # noqa: FBT001 - a row
    """A file in a folder that is not there, or a folder in its place, is a usage error."""
    for path in (tmp_path / "missing" / "file", tmp_path):
        with pytest.raises(UsageError) as caught:
            write_new_file(path, b"", is_private=is_private)
        assert caught.value.reason is Reason.UNREADABLE
        assert str(path) in caught.value.message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_under_the_output_is_said_plainly() -> None:
    """When the output cannot be written, the exit code is 2 and the message says why; it is no defect of ours."""
    command = [str(Path(sys.executable).with_name("mtc")), "trust", "schema"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)  # noqa: S603 - our own program
    assert done.returncode == 2
    assert b"the output cannot be written: no space left on device" in done.stderr
