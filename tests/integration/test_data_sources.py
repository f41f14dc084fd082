"""Data from buckets, the web and archives, against servers that speak the real protocols."""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.server
import io
import os
import shutil
import socket
import subprocess
import threading
import urllib.request
import zipfile

import boto3
import pytest
from moto.server import ThreadedMotoServer

from leptonai.data.buckets import BucketSource
from leptonai.data.commit import commit
from leptonai.data.shelf import Shelf
from leptonai.data.sources import open_source
from leptonai.data.version import Version
from leptonai.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from leptonai.testing.between import Between
from leptonai.testing.gcs import gcs
from leptonai.testing.platform import eventually

BIG = os.urandom(3 << 20)
FILES = {"cat/1.png": b"meow", "cat/2 ü.png": b"miaow", "dog/1.png": b"woof"}


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No credentials and no cache but this test's."""
    for name in [*os.environ]:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def committed(url, shelf, progress=None):
    with open_source(url, progress) as source:
        return commit(source, shelf)


def files_of(made, shelf):
    version = Version(made.manifest, shelf)
    return {path: bytes(version.read_file(n)) for n, path in enumerate(made.manifest.paths())}


# --- S3 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_server():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="data")
    for path, content in FILES.items():
        client.put_object(Bucket="data", Key=f"pets/{path}", Body=content)
    for folder in ("pets/", "pets/cat/"):
        client.put_object(Bucket="data", Key=folder, Body=b"")
    yield client
    for each in client.list_objects_v2(Bucket="data")["Contents"]:
        client.delete_object(Bucket="data", Key=each["Key"])
    client.delete_bucket(Bucket="data")


def test_a_prefix_of_an_s3_bucket_is_a_source(s3, shelf):
    made = committed("s3://data/pets/", shelf)
    assert files_of(made, shelf) == FILES
    assert made.manifest.facts.type == "image classification"


def test_what_has_the_same_etag_is_not_fetched_again(s3, shelf, monkeypatch):
    import leptonai.data.commit as committing

    monkeypatch.setattr(committing, "now_ns", lambda: 1 << 62)  # long after they were written
    first = committed("s3://data/pets", shelf)
    again = committed("s3://data/pets", shelf)
    assert (again.digest, again.read_bytes) == (first.digest, 0)
    s3.put_object(Bucket="data", Key="pets/dog/1.png", Body=b"WOOF")
    third = committed("s3://data/pets", shelf)
    assert third.read_bytes == 4
    assert files_of(third, shelf) == FILES | {"dog/1.png": b"WOOF"}


def test_one_object_is_a_source(s3, shelf):
    s3.put_object(Bucket="data", Key="tables/t.csv", Body=b"a,b\n1,2\n")
    assert files_of(committed("s3://data/tables/t.csv", shelf), shelf) == {"t.csv": b"a,b\n1,2\n"}


def test_large_objects_come_in_pieces(s3, shelf):
    s3.put_object(Bucket="data", Key="large/big.bin", Body=BIG)
    assert files_of(committed("s3://data/large", shelf), shelf) == {"big.bin": BIG}


def test_nothing_there_and_no_such_bucket_are_not_found(s3, shelf):
    with pytest.raises(NotFound, match="there is nothing at s3"):
        committed("s3://data/nope", shelf)
    with pytest.raises(NotFound, match="s3://no-such-bucket/x"):
        committed("s3://no-such-bucket/x", shelf)


def test_an_object_that_is_overwritten_meanwhile_is_said(s3):
    source = BucketSource("s3://data/pets")
    source.list()
    s3.put_object(Bucket="data", Key="pets/dog/1.png", Body=b"WOOF")
    with pytest.raises(InvalidRequest, match=r"'dog/1\.png' changed while it was read"):
        source.read_into("dog/1.png", memoryview(bytearray(100)))


@pytest.fixture
def between(s3, s3_server, monkeypatch):
    """What lies between us and the bucket, which may cut connections."""
    with Between(s3_server) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


def test_of_an_object_whose_transfer_is_cut_the_rest_is_asked_for(s3, between, shelf):
    s3.put_object(Bucket="data", Key="large/big.bin", Body=BIG)
    between.cut_after = 1 << 20
    assert files_of(committed("s3://data/large", shelf), shelf) == {"big.bin": BIG}
    starts = [each.rpartition(" from ")[2] for each in between.requests if " from " in each]
    assert between.cuts >= 3 and [int(start) for start in starts if start != "0"]


def test_an_object_that_is_overwritten_in_the_middle_of_its_transfer_is_said(s3, between, shelf):
    s3.put_object(Bucket="data", Key="large/big.bin", Body=BIG)
    with open_source("s3://data/large") as source:
        source.list()
        between.cut_after = 1 << 20
        chunks = source.chunks("big.bin")
        s3.put_object(Bucket="data", Key="large/big.bin", Body=b"x" * len(BIG))
        with pytest.raises(InvalidRequest, match=r"'big\.bin' changed while it was read"):
            b"".join(bytes(piece) for piece in chunks)


def test_an_s3_bucket_without_permission_is_said_with_what_to_do(s3, s3_server, shelf):
    def authenticate(after):
        request = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", data=after)
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request).close()

    authenticate(b"0")
    try:
        with pytest.raises(Forbidden, match="s3://data/pets may not be listed") as refused:
            committed("s3://data/pets", shelf)
    finally:
        authenticate(b"inf")
    assert "AWS_*" in refused.value.hint
    assert not [*shelf.place.glob("sha256/*/*")]


def test_without_credentials_it_is_said_which_are_needed(s3, monkeypatch, shelf):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # no machine of Amazon's
    with pytest.raises(Forbidden, match="with the credentials of this environment"):
        committed("s3://data/pets", shelf)


def test_urls_that_name_no_bucket_are_refused():
    for url in ("s3://", "s3://user@bucket/x", "s3://bucket/x?y=z"):
        with pytest.raises(InvalidRequest, match="names no bucket"):
            BucketSource(url)
    with pytest.raises(InvalidRequest, match="ftp:// is no source"), open_source("ftp://h/x"):
        pass


# --- Google --------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    objects = {f"pets/{path}": content for path, content in FILES.items()}
    with gcs("data", objects | {"large/big.bin": BIG}) as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield bucket


def test_a_prefix_of_a_google_bucket_is_a_source(bucket, shelf):
    assert files_of(committed("gs://data/pets", shelf), shelf) == FILES


def test_a_transfer_that_is_cut_goes_on_where_it_was(bucket, shelf):
    source = BucketSource("gs://data/large")
    source.list()
    bucket.seen.clear()
    bucket.cut_after = 2 << 20
    assert b"".join(bytes(piece) for piece in source.chunks("big.bin")) == BIG
    assert bucket.seen[0] == "GET /data/large/big.bin"
    assert all("bytes=" in request for request in bucket.seen[1:]) and len(bucket.seen) > 1


def test_a_bucket_without_permission_is_said_with_what_to_do(bucket, shelf):
    bucket.forbidden = True
    with pytest.raises(Forbidden, match="gs://data/pets may not be listed") as refused:
        committed("gs://data/pets", shelf)
    assert "GOOGLE_*" in refused.value.hint


# --- Azure ---------------------------------------------------------------------------------------

# The account and the key that every Azurite has.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture
def azure(monkeypatch, tmp_path):
    program = os.environ.get("LEPTON_AZURITE") or shutil.which("azurite-blob")
    if program is None:
        # Not even in CI a failure: it needs npm, which not every machine has.
        pytest.skip("no azurite-blob on PATH, nor in LEPTON_AZURITE: npm install -g azurite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--blobPort", str(port), "--blobHost", "127.0.0.1", "--location", str(tmp_path)]
    options += ["--skipApiVersionCheck", "--silent"]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{port}")
    try:
        eventually(lambda: _answers(port))
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_a_prefix_of_an_azure_container_is_a_source(azure, shelf):
    from obstore.store import from_url

    _create_container(azure, "data")
    store = from_url("az://data", client_options={"allow_http": True})
    for path, content in FILES.items():
        store.put(f"pets/{path}", content)
    assert files_of(committed("az://data/pets", shelf), shelf) == FILES
    with pytest.raises(NotFound):
        committed("az://nope/pets", shelf)


def test_of_azure_too_what_may_not_be_read_changed_or_is_cut_is_said(azure, shelf, monkeypatch):
    from obstore.store import from_url

    _create_container(azure, "data")
    store = from_url("az://data", client_options={"allow_http": True})
    store.put("large/big.bin", BIG)
    with Between(azure) as between:
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", between.url)
        between.cut_after = 1 << 20
        assert files_of(committed("az://data/large", shelf), shelf) == {"big.bin": BIG}
        assert between.cuts >= 3
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", azure.rpartition("/")[0])
    with open_source("az://data/large") as source:
        source.list()
        store.put("large/big.bin", BIG[::-1])
        with pytest.raises(InvalidRequest, match=r"'big\.bin' changed while it was read"):
            b"".join(bytes(piece) for piece in source.chunks("big.bin"))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(bytes(64)).decode())
    with pytest.raises(Forbidden, match="az://data/large may not be listed") as refused:
        committed("az://data/large", shelf)
    assert "AZURE_*" in refused.value.hint


def _create_container(url, name):
    """obstore makes none: a signed request by hand."""
    date = email.utils.formatdate(usegmt=True)
    said = f"x-ms-date:{date}\nx-ms-version:2021-12-02\n"
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + said + resource
    signed = hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")
    request = urllib.request.Request(f"{url}/{name}?restype=container", method="PUT", data=b"")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", "2021-12-02")
    request.add_header("Content-Type", "")
    signature = base64.b64encode(signed).decode()
    request.add_header("Authorization", f"SharedKey {ACCOUNT}:{signature}")
    urllib.request.urlopen(request).close()


# --- the web, and archives -----------------------------------------------------------------------


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return out.getvalue()


@pytest.fixture
def web():
    """Path → content, served with ETags, and ranges while they are the same."""
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            data = served.get(self.path)
            start, tag = 0, f'"{hashlib.sha256(data or b"").hexdigest()}"'
            if self.headers.get("If-Range") == tag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(404 if data is None else 206 if start else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(data or b"") - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write((data or b"")[start:])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_of_the_web_is_fetched_anew_for_each_version(web, shelf):
    url, served = web
    served["/t.csv"] = b"a,b\n1,2\n"
    assert files_of(committed(f"{url}/t.csv", shelf), shelf) == {"t.csv": b"a,b\n1,2\n"}
    served["/t.csv"] = b"a,b\n3,4\n"
    assert files_of(committed(f"{url}/t.csv", shelf), shelf) == {"t.csv": b"a,b\n3,4\n"}
    with pytest.raises(NotFound):
        committed(f"{url}/nope.csv", shelf)


def test_an_archive_of_the_web_is_unpacked_and_checked(web, shelf):
    url, served = web
    served["/pets.zip"] = zipped({f"pets/{path}": content for path, content in FILES.items()})
    digest = hashlib.sha256(served["/pets.zip"]).hexdigest()
    steps = []
    made = committed(f"{url}/pets.zip#sha256={digest}", shelf, lambda *at: steps.append(at))
    assert files_of(made, shelf) == FILES
    assert [*dict.fromkeys(doing for doing, *_ in steps)] == ["fetching", "unpacking"]
    with pytest.raises(InvalidRequest, match="not what was published"):
        committed(f"{url}/pets.zip#sha256={'0' * 64}", shelf)
    with pytest.raises(InvalidRequest, match="names no digest"):
        committed(f"{url}/pets.zip#md5=x", shelf)


def test_of_a_file_of_the_web_that_is_cut_the_rest_is_asked_for_and_all_is_checked(
    web, shelf, monkeypatch
):
    monkeypatch.setattr("leptonai.data.sets.downloads.PAUSE_S", 0.0)
    url, served = web
    served["/big.bin"] = BIG
    digest = hashlib.sha256(BIG).hexdigest()
    with Between(url) as between:
        between.cut_after = 1 << 20
        monkeypatch.setattr("leptonai.data.sets.downloads.ATTEMPTS", 2)
        made = committed(f"{between.url}/big.bin#sha256={digest}", shelf)
        assert files_of(made, shelf) == {"big.bin": BIG}
        assert [" from " in each for each in between.requests] == [False, True, True, True]


def test_what_a_killed_program_fetched_from_the_web_is_not_asked_for_again(web, shelf, monkeypatch):
    monkeypatch.setattr("leptonai.data.sets.downloads.PAUSE_S", 0.0)
    monkeypatch.setattr("leptonai.data.sets.downloads.ATTEMPTS", 1)
    url, served = web
    served["/big.bin"] = BIG
    with Between(url) as between:
        between.cut_after = 1 << 20
        with monkeypatch.context() as stopped:
            stopped.setattr("leptonai.data.sets.downloads.MAX_REQUESTS", 1)
            with pytest.raises(Unavailable, match="cannot be fetched"):
                committed(f"{between.url}/big.bin", shelf)
        assert not [*shelf.place.glob("sha256/*/*")]
        between.cut_after = None
        between.requests.clear()
        assert files_of(committed(f"{between.url}/big.bin", shelf), shelf) == {"big.bin": BIG}
        (request,) = between.requests
        assert 0 < int(request.rpartition(" from ")[2]) <= 1 << 20


def test_an_archive_of_this_machine_is_unpacked(tmp_path, shelf):
    (tmp_path / "pets.zip").write_bytes(zipped(FILES))
    assert files_of(committed(tmp_path / "pets.zip", shelf), shelf) == FILES


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "data.zip is empty: 0 bytes"),
        (zipped({"../evil": b"x"}), "would lie outside of it"),
        (zipped({"/evil": b"x"}), "would lie outside of it"),
        (zipped(FILES)[:-30], "cannot be unpacked"),
        (b"no archive at all", "cannot be unpacked"),
    ],
)
def test_archives_that_are_none_or_reach_outside(tmp_path, shelf, content, complaint):
    (tmp_path / "data.zip").write_bytes(content)
    with pytest.raises(InvalidRequest, match=complaint):
        committed(tmp_path / "data.zip", shelf)
    assert not (tmp_path / "evil").exists()


def test_a_server_that_is_not_there_is_unavailable(monkeypatch, shelf):
    import leptonai.data.sets.downloads as downloads

    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    with pytest.raises(Unavailable, match="cannot be fetched"):
        committed("http://127.0.0.1:9/t.csv", shelf)
