"""The output of a process stays bounded while it writes, and nothing that is kept has a gap."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leptonai import log_files
from leptonai.log_files import OLDER_LOGS, open_log

FULL = 2_000
LINES = 2_000

# Writes numbered lines in every way there is, and looks at the file after each of them.
WRITER = """
import logging, os, sys
from pathlib import Path
from leptonai import log_files
path, name, lines = Path(sys.argv[1]), sys.argv[2], int(sys.argv[4])
log_files.MAX_LOG_BYTES = int(sys.argv[3])
logging.basicConfig(format="%(message)s")
for number in range(lines):
    line = f"{name} {number}"
    if number % 3 == 0:
        logging.warning(line)
    elif number % 3 == 1:
        sys.stdout.write(f"{line}\\n")
        sys.stdout.flush()
    else:
        os.write(2, f"{line}\\n".encode())
    log_files.exchange_if_full(path)
"""


def writer(path: Path, name: str) -> subprocess.Popen[bytes]:
    with path.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name, str(FULL), str(LINES)],
            stdout=output,
            stderr=output,
        )


def files(path: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path.parent.iterdir(), key=lambda file: -int(file.suffix[1:].replace("log", "0")))


def numbers(path: Path, name: str) -> list[int]:
    lines = [line.split() for file in files(path) for line in file.read_text().splitlines()]
    assert [line for line in lines if len(line) != 2] == []
    return [int(number) for who, number in lines if who == name]


def test_a_file_that_is_full_is_exchanged_and_no_line_is_lost(tmp_path):
    path = tmp_path / "a.log"
    assert writer(path, "a").wait() == 0
    names = [f"a.log.{number}" for number in range(OLDER_LOGS, 0, -1)]
    assert [file.name for file in files(path)] == [*names, "a.log"]
    assert all(file.stat().st_size < FULL + 100 for file in files(path))
    kept = numbers(path, "a")
    assert kept == list(range(kept[0], LINES))
    assert len(kept) > 100


def test_two_processes_may_share_a_file(tmp_path):
    """As a gateway does that still answers its last requests while the next one serves."""
    path = tmp_path / "a.log"
    processes = [writer(path, "a"), writer(path, "b")]
    assert [process.wait() for process in processes] == [0, 0]
    assert {"a.log", "a.log.1"} <= {file.name for file in files(path)}
    assert len(files(path)) <= OLDER_LOGS + 1
    for name in ("a", "b"):
        kept = numbers(path, name)
        assert len(set(kept)) == len(kept)


def test_processes_that_end_at_once_do_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", FULL)
    path = tmp_path / "a.log"
    for _ in range(40):
        with open_log(path) as output:
            output.write(b"a traceback\n" * 50)
    assert len(files(path)) == OLDER_LOGS + 1
    assert all(file.stat().st_size < FULL + 600 for file in files(path))


def test_a_file_that_this_process_does_not_write_to_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 0)
    monkeypatch.setattr(log_files, "LOOK_EVERY_S", 0.001)
    path = tmp_path / "a.log"
    path.write_text("another's")
    before = os.fstat(2)

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await log_files.keep_bounded(path)

    asyncio.run(main())
    assert [file.read_text() for file in tmp_path.iterdir()] == ["another's"]
    assert os.path.samestat(before, os.fstat(2))
