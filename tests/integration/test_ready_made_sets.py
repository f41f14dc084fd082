"""Ready-made data sets, from small archives that are made here and served on the loopback."""

import gzip
import hashlib
import io
import struct
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from lepton_ai.datasets import CIFAR10, MNIST, Digits, DogsAndCats, FashionMNIST
from leptonai.data import DataLoader
from leptonai.data.sets import archives, downloads
from leptonai.data.sets.archives import unpack
from leptonai.errors import Forbidden, InvalidRequest, NotFound, StorageFull, TooLarge, Unavailable


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE_S", 0.001)
    return tmp_path / "cache" / "leptonai" / "datasets"


class Web:
    """Files by path; may cut an answer short, forget what it had, or refuse."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []  # bytes of the next answers
        self.status: int | None = None
        self.requests: list[tuple[str, str | None]] = []
        self.url = ""


@pytest.fixture
def web():
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            web.requests.append((self.path, asked))
            data = web.files.get(self.path)
            if web.status or data is None:
                return self.send_error(web.status or 404)
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            begin = 0
            if asked and self.headers.get("If-Range") == tag:
                begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            end = begin + web.cut_after.pop(0) if web.cut_after else len(data)
            self.wfile.write(data[begin:end])
            return None

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


def jpeg(shade: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((40, 50, 3), shade, np.uint8))


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def pets(count: int = 10) -> dict[str, bytes]:
    images = {f"PetImages/Cat/{n}.jpg": jpeg(n) for n in range(count)}
    images |= {f"PetImages/Dog/{n}.jpg": jpeg(100 + n) for n in range(count)}
    return images | {"readme[1].txt": b"pets", "PetImages/Cat/Thumbs.db": b"rubbish"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- dogs and cats -------------------------------------------------------------------------------


def test_dogs_and_cats_come_from_an_address_as_batches_of_images(web):
    web.files["/pets.zip"] = archive = zipped(pets())
    train, test = DogsAndCats.split(f"{web.url}/pets.zip", sha256=sha256(archive))
    assert (len(train), len(test)) == (16, 4)
    assert train.classes == test.classes == ("Cat", "Dog")
    names = [part.path_of(number) for part in (train, test) for number in range(len(part))]
    assert sorted(names) == sorted(f"{kind}/{n}.jpg" for kind in ("Cat", "Dog") for n in range(10))
    ((images, labels),) = DataLoader(train, 16, image_size=(32, 32), num_workers=2)
    assert (images.shape, labels.sum().item()) == ((16, 32, 32, 3), 8)
    shades = images.float().mean(dim=(1, 2, 3))
    assert bool(((shades > 80) == (labels == 1)).all())


def test_who_waits_is_told_how_far_it_is(web):
    web.files["/pets.zip"] = archive = zipped(pets())
    told = []
    DogsAndCats.split(f"{web.url}/pets.zip", progress=lambda *at: told.append(at))
    fetching = [at for doing, *at in told if doing == "fetching"]
    unpacking = [at for doing, *at in told if doing == "unpacking"]
    assert told == [("fetching", *at) for at in fetching] + [("unpacking", *at) for at in unpacking]
    assert fetching[-1] == [len(archive), len(archive)]
    assert unpacking == sorted(unpacking) and unpacking[-1][0] <= unpacking[-1][1] == len(archive)


def test_the_same_archive_is_fetched_once_and_gives_the_same_digests(web, cache):
    web.files["/pets.zip"] = archive = zipped(pets())
    first = DogsAndCats.split(f"{web.url}/pets.zip")
    again = DogsAndCats.split(f"{web.url}/pets.zip")
    elsewhere = cache / "elsewhere.zip"
    elsewhere.write_bytes(archive)
    local = DogsAndCats.split(elsewhere)
    digests = {tuple(part.digest for part in parts) for parts in (first, again, local)}
    assert len(digests) == 1 and len(web.requests) == 1


def test_a_folder_of_images_needs_no_archive(tmp_path):
    for name, data in pets(3).items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    train, test = DogsAndCats.split(tmp_path / "mine", held_out=0.34)
    assert (len(train), len(test)) == (4, 2)


def test_files_that_are_no_images_are_left_out(tmp_path):
    (tmp_path / "pets.zip").write_bytes(
        zipped(pets() | {"PetImages/Cat/666.jpg": b"", "PetImages/Dog/11702.jpg": b"<html>"})
    )
    train, test = DogsAndCats.split(tmp_path / "pets.zip")
    assert len(train) + len(test) == 20


def test_a_class_without_images_is_named(tmp_path):
    (tmp_path / "pets.zip").write_bytes(zipped(pets() | {"PetImages/Fish/a.jpg": b"<html>"}))
    with pytest.raises(InvalidRequest, match="has no images of Fish"):
        DogsAndCats.split(tmp_path / "pets.zip")


def test_parts_that_the_data_itself_has_are_kept(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for name, data in pets(count).items():
            if name.endswith(".jpg"):
                path = tmp_path / "mine" / part / name.removeprefix("PetImages/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    train, test = DogsAndCats.split(tmp_path / "mine")
    assert (len(train), len(test), train.classes) == (6, 4, ("Cat", "Dog"))


def test_an_image_outside_of_the_class_folders_is_named(tmp_path):
    (tmp_path / "pets.zip").write_bytes(zipped(pets() | {"PetImages/stray.jpg": jpeg(1)}))
    with pytest.raises(InvalidRequest, match=r"stray.jpg' lies in no class folder"):
        DogsAndCats.split(tmp_path / "pets.zip")


# --- downloads -----------------------------------------------------------------------------------


def test_a_download_that_was_cut_goes_on_where_it_was(web, tmp_path):
    web.files["/a"] = data = bytes(range(256)) * 100
    web.cut_after = [1_000, 2_000]
    downloads.download(f"{web.url}/a", tmp_path / "a", sha256=sha256(data))
    assert (tmp_path / "a").read_bytes() == data
    assert web.requests == [("/a", None), ("/a", "bytes=1000-"), ("/a", "bytes=3000-")]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a"]


def test_a_server_that_keeps_hanging_up_is_given_up_and_what_came_is_kept(web, tmp_path):
    web.files["/a"] = data = b"x" * 5_000
    web.cut_after = [1_000] + [0] * downloads.ATTEMPTS
    with pytest.raises(Unavailable, match="the connection was cut after 1000 of 5000 bytes"):
        downloads.download(f"{web.url}/a", tmp_path / "a", sha256=sha256(data))
    assert not (tmp_path / "a").exists()
    web.requests.clear()
    downloads.download(f"{web.url}/a", tmp_path / "a", sha256=sha256(data))
    assert web.requests == [("/a", "bytes=1000-")]


def test_a_file_that_changed_in_between_is_fetched_anew(web, tmp_path):
    web.files["/a"] = b"old" * 1_000
    web.cut_after = [10] + [0] * downloads.ATTEMPTS
    with pytest.raises(Unavailable):
        downloads.download(f"{web.url}/a", tmp_path / "a", sha256=None)
    web.files["/a"] = b"new" * 1_000
    downloads.download(f"{web.url}/a", tmp_path / "a", sha256=None)
    assert (tmp_path / "a").read_bytes() == b"new" * 1_000


def test_a_file_that_is_not_what_was_published_is_refused_and_forgotten(web, tmp_path):
    web.files["/a"] = b"bad"
    with pytest.raises(InvalidRequest, match="is not what was published"):
        downloads.download(f"{web.url}/a", tmp_path / "a", sha256=sha256(b"good"))
    assert list(tmp_path.glob("a*")) == []


@pytest.mark.parametrize(
    ("status", "error"), [(403, Forbidden), (404, NotFound), (410, NotFound), (500, Unavailable)]
)
def test_a_server_that_says_no_is_believed(web, tmp_path, status, error):
    web.status = status
    with pytest.raises(error):
        downloads.download(f"{web.url}/a", tmp_path / "a", sha256=None)
    assert len(web.requests) == (downloads.ATTEMPTS if error is Unavailable else 1)


def test_a_server_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="refused"):
        downloads.download("http://127.0.0.1:9/a", tmp_path / "a", sha256=None)


def test_only_the_web_is_downloaded_from(tmp_path):
    with pytest.raises(InvalidRequest, match="not an address of the web"):
        downloads.download("file:///etc/passwd", tmp_path / "a", sha256=None)


def test_more_than_the_bound_is_refused(web, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 100)
    web.files["/a"] = b"x" * 101
    with pytest.raises(TooLarge):
        downloads.download(f"{web.url}/a", tmp_path / "a", sha256=None)


def test_a_full_disk_is_said_to_be_full(cache):
    with pytest.raises(StorageFull), downloads.one_at_a_time(cache):
        raise OSError(downloads.DISK_FULL[0], "No space left on device")


# --- archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out", "..\\out"])
def test_a_member_that_would_lie_outside_is_refused(tmp_path, pack, name):
    (tmp_path / "archive").write_bytes(pack({"fine": b"1", name: b"2"}))
    with pytest.raises(InvalidRequest, match="would lie outside of it"):
        unpack(tmp_path / "archive", tmp_path / "into" / "data")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive", "into"]


def a_link(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return buffer.getvalue()


def a_zipped_link() -> bytes:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    return zipped({info: b"/etc/passwd"})


@pytest.mark.parametrize(
    "archive",
    [a_link(tarfile.SYMTYPE), a_link(tarfile.LNKTYPE), a_link(tarfile.FIFOTYPE), a_zipped_link()],
)
def test_a_link_is_refused(tmp_path, archive):
    (tmp_path / "archive").write_bytes(archive)
    with pytest.raises(InvalidRequest, match="is a link, or something else that is no file"):
        unpack(tmp_path / "archive", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"\0" * len(data)],
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_damaged_archive_leaves_nothing_behind(tmp_path, pack, damage):
    noise = np.random.default_rng(0).bytes(50_000)
    (tmp_path / "archive").write_bytes(damage(pack({"a": noise, "b": noise})))
    with pytest.raises(InvalidRequest, match="cannot be unpacked"):
        unpack(tmp_path / "archive", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["archive"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("bound", ["MAX_FILES", "MAX_UNPACKED_BYTES"])
def test_an_archive_of_more_than_the_bound_is_refused(tmp_path, monkeypatch, pack, bound):
    monkeypatch.setattr(archives, bound, 1)
    (tmp_path / "archive").write_bytes(pack({"a": b"12", "b": b"34"}))
    with pytest.raises(TooLarge):
        unpack(tmp_path / "archive", tmp_path / "data")
    assert not (tmp_path / "data").exists()


# --- MNIST and its like --------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def mnist_files(train: int = 6, test: int = 2) -> dict[str, bytes]:
    return {
        f"{part}-{name}": idx(array)
        for part, count in (("train", train), ("t10k", test))
        for name, array in (
            ("images-idx3-ubyte.gz", np.arange(count * 4 * 5).reshape(count, 4, 5)),
            ("labels-idx1-ubyte.gz", np.arange(count) % 10),
        )
    }


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_mnist_and_its_like_come_from_an_address(web, dataset):
    files = mnist_files()
    web.files |= {f"/m/{name}": data for name, data in files.items()}
    train, test = dataset.split(f"{web.url}/m/", sha256=[sha256(each) for each in files.values()])
    assert (train.images.shape, test.images.shape) == ((6, 4, 5, 1), (2, 4, 5, 1))
    assert train.images[1, :, :, 0].tolist() == np.arange(20, 40).reshape(4, 5).tolist()
    assert (train.labels.tolist(), len(train.classes)) == ([0, 1, 2, 3, 4, 5], 10)
    images, labels = next(iter(DataLoader(train, 4)))
    assert (images.shape, labels.tolist()) == ((4, 4, 5, 1), [0, 1, 2, 3])


def test_mnist_comes_from_a_directory_unpacked_or_not(tmp_path):
    for name, data in mnist_files().items():
        unpacked = name.startswith("train")
        path = tmp_path / (name.removesuffix(".gz") if unpacked else name)
        path.write_bytes(gzip.decompress(data) if unpacked else data)
    assert [len(part) for part in MNIST.split(tmp_path)] == [6, 2]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte.gz", b"", "it is not an IDX file"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((6, 4, 5)))[:-9], "end-of-stream marker"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(b"\0\0\x08\x03abc", mtime=0),
            "it is not an IDX file",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(b"\0\0\x08\x01\xff\xff\xff\xff12", mtime=0),
            r"it says \[4294967295\], and holds 2 values",
        ),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(5)), "do not belong together"),
        ("train-labels-idx1-ubyte.gz", idx(np.full(6, 10)), "a label 10, but only 10 classes"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, name, data, message):
    for other, whole in mnist_files().items():
        (tmp_path / other).write_bytes(whole)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidRequest, match=message):
        MNIST.split(tmp_path)


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(NotFound, match="train-images-idx3-ubyte"):
        MNIST.split(tmp_path)


# --- CIFAR-10 ------------------------------------------------------------------------------------


def cifar_file(labels: list[int]) -> bytes:
    """Red rises along the columns, green along the rows, blue is the label."""
    ramp = np.arange(32, dtype=np.uint8)
    pixels = [np.tile(ramp, 32), np.repeat(ramp, 32)]
    return b"".join(
        np.concatenate([[label], *pixels, np.full(1024, label)]).astype(np.uint8).tobytes()
        for label in labels
    )


def cifar_files() -> dict[str, bytes]:
    batches = {f"data_batch_{n}.bin": cifar_file([n, n + 1]) for n in range(1, 6)}
    files = batches | {"test_batch.bin": cifar_file([9]), "batches.meta.txt": b"airplane\n"}
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


def test_cifar_10_is_read_from_its_binary_version(web):
    web.files["/cifar-10-binary.tar.gz"] = tarred(cifar_files())
    train, test = CIFAR10.split(f"{web.url}/cifar-10-binary.tar.gz")
    assert train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert (train.images.shape, test.images.shape) == ((10, 32, 32, 3), (1, 32, 32, 3))
    assert test.images[0, 7, 5].tolist() == [5, 7, 9]  # row 7, column 5
    assert test.classes[test[0][1]] == "truck"


def test_the_pickled_version_of_cifar_10_is_not_opened(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n")
    with pytest.raises(InvalidRequest, match="which is pickled") as refusal:
        CIFAR10.split(tmp_path)
    assert "get the binary version: https://" in refusal.value.hint


@pytest.mark.parametrize("data", [b"", cifar_file([1])[:-1], cifar_file([10])])
def test_a_damaged_file_of_cifar_10_is_named(tmp_path, data):
    for name, whole in cifar_files().items():
        (tmp_path / Path(name).name).write_bytes(whole)
    (tmp_path / "data_batch_3.bin").write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"data_batch_3.bin is not a file of CIFAR-10"):
        CIFAR10.split(tmp_path)


# --- digits, and all of them ---------------------------------------------------------------------


def test_digits_come_in_batches():
    images, labels = next(iter(DataLoader(Digits.load(), 5)))
    assert (images.shape, labels.tolist()) == ((5, 8, 8, 1), [0, 1, 2, 3, 4])


def test_digits_are_divided_as_the_others_are():
    train, test = Digits.split()
    assert len(train) + len(test) == len(Digits.load()) == 1797
    assert 350 < len(test) < 370 and {*test.labels.tolist()} == {*range(10)}
    assert train.classes == test.classes and train[0][0].shape == (8, 8, 1)


@pytest.mark.parametrize("dataset", [DogsAndCats, CIFAR10, MNIST])
def test_a_place_that_is_not_there_is_named(tmp_path, dataset):
    with pytest.raises(NotFound, match="nowhere"):
        dataset.split(tmp_path / "nowhere")


@contextmanager
def other_threads(count, target):
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def test_workers_that_want_the_same_data_set_fetch_it_once(web):
    web.files["/pets.zip"] = zipped(pets())
    digests = []
    with other_threads(
        4, lambda: digests.append(DogsAndCats.split(f"{web.url}/pets.zip")[0].digest)
    ):
        pass
    assert len({*digests}) == 1 and len(digests) == 4 and len(web.requests) == 1
