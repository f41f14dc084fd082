"""The cache of a machine: what it holds has a limit, and what is in use stays."""

import hashlib
import os
import subprocess
import sys
import threading

import pytest

from leptonai.data.cache import LIMIT_VARIABLE, MOST_BYTES, Cache
from leptonai.data.columns import map_file
from leptonai.data.shelf import PARTIAL
from leptonai.errors import InvalidRequest

OBJECT_BYTES = 1000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, str(10 * OBJECT_BYTES))
    return Cache(tmp_path / "cache")


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(cache, number, used_s):
    """An object that was used last at that time."""
    digest = cache.put([f"{number:0{OBJECT_BYTES}}".encode()])
    os.utime(cache.path(digest), (used_s, used_s))
    return digest


def fetched(cache, data, piece=100):
    arriving = cache.begin(digest_of(data))
    try:
        if not arriving.is_there:
            for at in range(arriving.size, len(data), piece):
                arriving.write(data[at : at + piece])
            arriving.keep()
    finally:
        arriving.close()


def test_what_was_used_longest_ago_goes_when_there_is_too_much(cache):
    digests = [put(cache, number, used_s=1_000 + number) for number in range(12)]
    cache.used(digests[0])
    assert cache.trim() == 4 * OBJECT_BYTES  # down to a little less than is allowed
    assert [cache.has(digest) for digest in digests] == [True] + [False] * 4 + [True] * 7


def test_what_is_mapped_stays_until_it_is_let_go(cache):
    digests = [put(cache, number, used_s=1_000 + number) for number in range(12)]
    mapped = map_file(cache.path(digests[0]))
    with cache.held(digests[1]):
        os.utime(cache.path(digests[1]), (1_001, 1_001))
        cache.trim()
    assert [cache.has(digest) for digest in digests] == [True] * 2 + [False] * 4 + [True] * 6
    assert bytes(mapped[-1:]) == b"0"
    assert cache.empty() == 7 * OBJECT_BYTES
    mapped.close()
    assert cache.empty() == OBJECT_BYTES
    assert cache.holding()[1:] == (0, 0, 10 * OBJECT_BYTES)


def test_what_another_process_has_mapped_stays_too(cache):
    digest = put(cache, 1, used_s=1_000)
    code = (
        "import sys; from pathlib import Path; from leptonai.data.columns import map_file\n"
        "mapped = map_file(Path(sys.argv[1])); print('mapped', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(cache.path(digest))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"mapped\n"
        assert cache.empty() == 0
    finally:
        other.communicate()
    assert cache.empty() == OBJECT_BYTES


def test_nothing_goes_while_a_version_is_made(cache):
    digests = [put(cache, number, used_s=1_000 + number) for number in range(12)]
    with cache.keeping():
        assert (Cache(cache.place).trim(), cache.empty()) == (0, 0)
    assert sum(cache.has(digest) for digest in digests) == 8, "there is room again at the end"


def test_fetching_makes_room(cache):
    for number in range(40):
        fetched(cache, f"{number:0{OBJECT_BYTES}}".encode())
        assert cache.holding().bytes <= 10 * OBJECT_BYTES
    assert cache.holding().objects >= 8


def test_what_has_come_is_there_for_the_next_try(cache):
    data = os.urandom(OBJECT_BYTES)
    first = cache.begin(digest_of(data))
    first.write(data[:600])
    first.close()
    second = cache.begin(digest_of(data))
    assert (second.size, second.digest) == (600, digest_of(data[:600]))
    second.close()
    fetched(cache, data)
    assert cache.path(digest_of(data)).read_bytes() == data
    assert not [*(cache.place / PARTIAL).iterdir()]


def test_of_several_who_fetch_an_object_one_does(cache):
    data = os.urandom(OBJECT_BYTES)
    first = cache.begin(digest_of(data))
    seen = []

    def fetch():
        arriving = cache.begin(digest_of(data))
        seen.append(arriving.is_there)
        arriving.close()

    others = [threading.Thread(target=fetch) for _ in range(3)]
    for other in others:
        other.start()
    first.write(data)
    first.keep()
    first.close()
    for other in others:
        other.join()
    assert seen == [True, True, True]
    assert cache.path(digest_of(data)).read_bytes() == data


@pytest.mark.parametrize(
    ("text", "limit"),
    [("5000", 5000), ("2MiB", 2 << 20), ("50GiB", 50 << 30), ("1.5GB", 1431 << 20)],
)
def test_the_limit_is_read_as_people_write_it(cache, monkeypatch, text, limit):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    assert cache.limit_bytes() == limit


@pytest.mark.parametrize("text", ["much", "-1", "5 apples", "1e9", "²"])
def test_a_limit_that_is_none_is_refused(cache, monkeypatch, text):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(InvalidRequest, match=r"LEPTON_CACHE_BYTES=.* is no amount"):
        cache.limit_bytes()


def test_unless_said_otherwise_half_of_the_disk_stays_free(cache, monkeypatch):
    monkeypatch.delenv(LIMIT_VARIABLE)
    assert 0 < cache.limit_bytes() <= MOST_BYTES
