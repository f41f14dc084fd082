"""The command line says in two lines what went wrong, whatever it is given."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from leptonai.cli.__main__ import run
from leptonai.client import http_sync

TOKEN = "a-token-that-nobody-must-see"


@pytest.fixture
def server():
    """Says the same to everybody, in the given pieces."""
    listening = socket.create_server(("127.0.0.1", 0))
    pieces: list[bytes] = []

    def answer(connection):
        with connection, suppress(OSError):
            connection.recv(65_536)
            for piece in pieces:
                connection.sendall(piece)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", pieces
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.fixture
def lepton(server, monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    monkeypatch.setenv("LEPTON_WORKSPACE_URL", server[0])
    monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", TOKEN)

    def call(*arguments):
        code = run(arguments)
        out, err = capfd.readouterr()
        assert TOKEN not in out + err
        return code, out, err

    return call


def http(body=b"", *, status=b"200 OK", head=b""):
    length = b"content-length: %d\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + length + head + b"connection: close\r\n\r\n" + body


ANSWERS = {
    "a page": http(b"<html>"),
    "a page of an error": http(b"<html>", status=b"500 Oops"),
    "a page that is elsewhere": http(status=b"302 Found", head=b"location: http://evil/\r\n"),
    "an error of somebody else": http(b'{"code": 5, "message": null}', status=b"400 No"),
    "another document": http(b'{"a": [1]}'),
    "no document": http(b"null"),
    "nothing": http(status=b"204 No"),
    "a status that is none": http(status=b"999 x"),
    "a deep document": http(b"[" * 100_000),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("command", [("job", "list"), ("job", "create", "-n", "x", "--", "true")])
def test_a_server_that_is_no_lepton_is_recognised(lepton, server, answer, command):
    server[1].append(ANSWERS[answer])
    code, out, err = lepton(*command)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 2
    assert "is this the URL of a Lepton workspace" in err.splitlines()[1]


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([os.urandom(10) + b"\n"], "its answer is not HTTP"),
        ([http(b"x" * 100)[:-90]], "the connection was closed"),
        ([b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n" * 50] * 4], "got more than 100 headers"),
    ],
)
def test_an_answer_that_breaks_off_is_told(lepton, server, pieces, why):
    server[1].extend(pieces)
    code, _, err = lepton("job", "list")
    assert (code, len(err.splitlines())) == (1, 2)
    assert why in err.splitlines()[0]


def test_an_answer_without_end_is_not_read_without_end(lepton, server, monkeypatch):
    monkeypatch.setattr(http_sync, "MAX_ANSWER_BYTES", 1 << 20)
    server[1].extend([b"HTTP/1.1 200 OK\r\n\r\n[", *[b"1," * (1 << 19)] * 64])
    code, _, err = lepton("job", "list")
    assert (code, "is larger than" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-f", "/dev/zero"], 1, "/dev/zero is larger than"),
        (["-f", "/dev/null"], 1, "/dev/null is not JSON"),
        (["-f", "/proc/self/mem"], 1, "error: input/output error"),
        (["--gpu", "nan"], 2, "'nan' is not a number of GPUs"),
        (["--gpu", "inf"], 2, "'inf' is not a number of GPUs"),
        (["--gpu", "1e3"], 2, "'1e3' is not a number of GPUs"),
        (["--workdir", ""], 1, "'' is not a directory"),
    ],
)
def test_values_that_are_none_are_told(lepton, arguments, code, message):
    found, out, err = lepton("job", "create", "-n", "x", *arguments, "--", "true")
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 2


def test_a_document_may_not_be_deeper_than_anybody_reads(lepton, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    code, _, err = lepton("job", "create", "-n", "x", "-f", str(tmp_path / "deep.json"))
    assert (code, len(err.splitlines())) == (1, 2)


@pytest.mark.parametrize("url", ["http://a b", "http://a/\tb", "http://a\xa0b", "http://\xfc"])
def test_an_address_that_is_none_is_told(lepton, monkeypatch, url):
    monkeypatch.setenv("LEPTON_WORKSPACE_URL", url)
    code, _, err = lepton("job", "list")
    assert (code, "is not the URL of a workspace" in err) == (1, True)


@pytest.mark.parametrize("command", [("status",), ("job", "list")])
def test_a_home_that_nobody_knows_is_told(lepton, monkeypatch, command):
    monkeypatch.setenv("LEPTON_HOME", "~nobody-of-this-name/x")
    code, _, err = lepton(*command)
    assert (code, len(err.splitlines())) == (1, 2)
    assert "nobody knows where" in err


def test_a_fault_of_our_own_is_told_in_two_lines_too(lepton, monkeypatch):
    def fail():
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("leptonai.home.Home.default", fail)
    code, _, err = lepton("status")
    assert (code, err.splitlines()[0]) == (
        1,
        "error: a fault of leptonai itself: ZeroDivisionError: a fault",
    )


def in_a_shell(line, tmp_path):
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", sys.executable, "-m", "leptonai.cli"],
        env={**os.environ, "LEPTON_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_streams_that_are_closed_or_full_are_no_reason_to_crash(tmp_path):
    for redirection in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        ended = in_a_shell(f'"$@" doctor {redirection}', tmp_path)
        assert (ended.returncode, ended.stderr) == (0, ""), redirection
    full = in_a_shell('"$@" doctor >/dev/full', tmp_path)
    assert (full.returncode, full.stderr.splitlines()[0]) == (1, "error: no space left on device")
    assert len(full.stderr.splitlines()) == 2
