"""Objects between a workspace and this machine: in parallel, cut anywhere, gone on with."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from leptonai import Dataset
from leptonai.client import LeptonClient
from leptonai.data.cache import LIMIT_VARIABLE, Cache
from leptonai.data.transfers import upload
from leptonai.errors import Internal, NotFound, StorageFull
from leptonai.testing.between import Between
from leptonai.testing.platform import RunningPlatform, eventually

MIB = 1 << 20


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("transfers") / "home") as running:
        yield running


@pytest.fixture
def between(platform):
    with Between(platform.state.url) as between:
        yield between


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another machine's home."""
    home = tmp_path / "elsewhere"
    monkeypatch.setenv("LEPTON_HOME", str(home))
    return home


@pytest.fixture
def client(platform, between, elsewhere):
    with LeptonClient(url=between.url, token=platform.token) as client:
        assert client.connection.blobs is None
        yield client


@pytest.fixture
def cache(elsewhere):
    return Cache(elsewhere / "cache" / "blobs")


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def kept_there(platform, data):
    """A blob of the workspace."""
    digest = digest_of(data)
    path = platform.home.blobs / "sha256" / digest[7:9] / digest[7:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return digest


def files(root, count, size):
    root.mkdir()
    for number in range(count):
        (root / f"{number}.bin").write_bytes(os.urandom(size))
    return root


def contents(root):
    return {path.name: path.read_bytes() for path in root.rglob("*.bin")}


def test_a_fetch_that_is_cut_again_and_again_asks_for_the_rest_only(
    platform, between, client, cache
):
    data = os.urandom(6 * MIB)
    digest = kept_there(platform, data)
    between.cut_after = 2 * MIB
    client.blobs.fetch(digest, cache)
    assert cache.path(digest).read_bytes() == data
    starts = [
        int(request.rpartition(" ")[2]) if " from " in request else 0
        for request in between.requests
        if request.startswith("GET") and digest in request
    ]
    assert len(starts) >= 4 and starts == sorted(set(starts)), starts
    assert all(later - earlier <= 2 * MIB for earlier, later in itertools.pairwise(starts))


def test_what_came_before_a_kill_is_not_fetched_again(platform, between, client, cache):
    data = os.urandom(6 * MIB)
    digest = kept_there(platform, data)
    arriving = cache.begin(digest)
    arriving.write(data[: 5 * MIB])
    arriving.close()
    client.blobs.fetch(digest, cache)
    assert cache.path(digest).read_bytes() == data
    assert [each for each in between.requests if digest in each] == [
        f"GET /api/v2/workspaces/default/blobs/{digest} from {5 * MIB}"
    ]


@pytest.mark.parametrize("left", [b"something else", b"x" * (2 * MIB)], ids=["damaged", "too-long"])
def test_what_was_left_and_is_no_part_of_it_is_thrown_away(platform, client, cache, left):
    data = os.urandom(MIB)
    digest = kept_there(platform, data)
    arriving = cache.begin(digest)
    arriving.write(left)
    arriving.close()
    client.blobs.fetch(digest, cache)
    assert cache.path(digest).read_bytes() == data


def test_what_is_damaged_there_never_lies_here(platform, client, cache):
    digest = digest_of(b"what it should be")
    path = platform.home.blobs / "sha256" / digest[7:9] / digest[7:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"what it became...")
    with pytest.raises(Internal, match=f"the blob {digest} arrived as sha256:"):
        client.blobs.fetch(digest, cache)
    assert not cache.has(digest)
    assert not [*(cache.place / "partial").iterdir()]


def test_a_version_is_sent_and_fetched_with_several_connections(
    between, client, cache, tmp_path, monkeypatch
):
    root = files(tmp_path / "many", count=12, size=2 * MIB)
    steps = []
    Dataset.create("many", root, client=client, progress=lambda *at: steps.append(at))
    told = [tuple(at) for doing, *at in steps if doing == "storing"]
    sent = [tuple(at) for doing, *at in steps if doing == "sending"]
    stored = sent[-1][1]  # with the heads of its packs
    assert (told[-1], sent[-1]) == ((24 * MIB, 24 * MIB), (stored, stored))
    assert 24 * MIB < stored < 25 * MIB
    assert sent == sorted(sent) and len(sent) > 24, "also within an object"
    cache.empty()
    between.slow_s, between.most_at_once = 0.002, 0
    told.clear()
    client.datasets.download("many", tmp_path / "copy", progress=lambda *at: told.append(at))
    assert contents(tmp_path / "copy") == contents(root)
    assert told[-1] == (24 * MIB, 24 * MIB)
    assert told == sorted(told) and len({*told}) > 12, "also within a file"
    assert 2 <= between.most_at_once <= 8


def test_more_is_read_than_the_cache_may_hold(client, cache, tmp_path, monkeypatch):
    root = files(tmp_path / "large", count=12, size=2 * MIB)
    Dataset.create("large", root, client=client)
    monkeypatch.setenv(LIMIT_VARIABLE, "7MiB")
    cache.empty()
    dataset = Dataset.get("large", client=client)
    for at in [*range(12), *range(12)]:
        assert bytes(dataset[at].data) == (root / dataset.path_of(at)).read_bytes()
        assert cache.holding().bytes <= 7 * MIB
    client.datasets.download("large", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(root)


def test_what_is_gone_there_and_here_is_said(client, cache):
    assert upload(client, cache, [(digest_of(b"never seen"), 10)]) is False
    with pytest.raises(NotFound):
        client.blobs.fetch(digest_of(b"never seen"), cache)


def interrupted(between, client, under_way, *command):
    """Runs a command of another machine until something is under way, then presses Ctrl-C."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_WORKSPACE")}
    environment["LEPTON_WORKSPACE_URL"] = client.url
    environment["LEPTON_WORKSPACE_TOKEN"] = client.connection.token
    process = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    eventually(lambda: process.poll() is None and under_way())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    between.slow_s = 0.0
    between.requests.clear()
    again = subprocess.run(
        [sys.executable, "-m", "leptonai.cli", *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    return process.returncode, told, again


def test_after_ctrl_c_a_download_goes_on_where_it_was(between, client, cache, tmp_path):
    root = files(tmp_path / "far", count=10, size=2 * MIB)
    Dataset.create("far", root, client=client)
    cache.empty()
    between.slow_s = 0.05  # seconds in all: a busy machine may be late with the Ctrl-C
    between.requests.clear()
    command = ("dataset", "download", "far", str(tmp_path / "copy"))
    partials = cache.place / "partial"

    def begun():
        with suppress(FileNotFoundError):  # one that has just become whole
            return any(each.stat().st_size for each in partials.glob("*"))
        return False

    code, told, again = interrupted(between, client, begun, *command)
    assert (code, told) == (
        130, "interrupted; what is done is kept: the same command goes on from there\n",
    )  # fmt: skip
    assert (again.returncode, again.stdout, again.stderr) == (0, "far@1\n", "")
    assert contents(tmp_path / "copy") == contents(root)
    assert any(" from " in each for each in between.requests), "in the middle of objects"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_after_ctrl_c_a_create_goes_on_where_it_was(between, client, tmp_path):
    root = files(tmp_path / "near", count=8, size=2 * MIB)
    between.requests.clear()
    between.slow_s = 0.05  # of the answers: each upload waits for its own
    command = ("dataset", "create", "-n", "near", str(root))

    def begun():
        if sum(each.startswith("PUT") for each in between.requests) < 4:
            return False
        between.slow_s = 5.0  # so that it is not done before it is interrupted
        return True

    code, told, again = interrupted(between, client, begun, *command)
    assert (code, told.splitlines()[-1:]) == (
        130, ["interrupted; what is done is kept: the same command goes on from there"],
    )  # fmt: skip
    assert (again.returncode, again.stdout, again.stderr) == (
        0, "near@1\n", "files: 8 samples; 16MiB\n",
    )  # fmt: skip
    client.datasets.download("near", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(root)


# --- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_on_a_full_disk_nothing_is_half_there_and_room_is_all_it_takes(
    client, small_disk, tmp_path, monkeypatch
):
    root = files(tmp_path / "big", count=6, size=2 * MIB)
    Dataset.create("big", root, client=client)
    monkeypatch.setenv(LIMIT_VARIABLE, "1GiB")
    monkeypatch.setenv("LEPTON_HOME", str(small_disk / "home"))
    for place in (tmp_path / "copy", small_disk / "copy"):
        with pytest.raises(StorageFull, match=r"the disk of .* is full"):
            client.datasets.download("big", place)
        assert not place.exists()
    with pytest.raises(StorageFull):
        Dataset.create("bigger", files(tmp_path / "bigger", count=9, size=MIB), client=client)
    with pytest.raises(NotFound):
        client.datasets.get("bigger")
    monkeypatch.setenv(LIMIT_VARIABLE, "4MiB")
    client.datasets.download("big", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(root)
