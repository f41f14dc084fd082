"""The SDK against real sockets; every test runs for the sync and for the async face."""

import asyncio
import hashlib
import inspect
import io
import tarfile
import threading
from types import SimpleNamespace

import msgspec
import pytest

from leptonai.client import AsyncLeptonClient, LeptonClient
from leptonai.errors import (
    AlreadyExists,
    Conflict,
    Internal,
    InvalidRequest,
    NotFound,
    TryLater,
    Unauthenticated,
    Unavailable,
)
from leptonai.spec.containers import Container
from leptonai.spec.endpoints import EndpointSpec, LeptonDeployment
from leptonai.spec.jobs import JobSpec, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.testing.workspace_server import TOKEN, WorkspaceServer


class Blocking:
    """The async face, called from tests that do not await."""

    def __init__(self, target, loop):
        self._target, self._loop = target, loop

    def __getattr__(self, name):
        value = getattr(self._target, name)
        if inspect.iscoroutinefunction(value):
            return lambda *a, **k: self._loop.run_until_complete(value(*a, **k))
        if inspect.isasyncgenfunction(value) or name in ("log", "history"):
            return lambda *a, **k: self._iterate(value(*a, **k))
        return Blocking(value, self._loop) if type(value).__name__.startswith("Async") else value

    def _iterate(self, feed):
        try:
            while True:
                yield self._loop.run_until_complete(anext(feed))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(feed.aclose())


@pytest.fixture(autouse=True)
def a_home_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))


@pytest.fixture
def server():
    with WorkspaceServer() as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def connect(request, server):
    """Makes clients of one face, and closes them."""
    loop = asyncio.new_event_loop()
    made = []

    def make(**options):
        options = {"url": server.url, "token": TOKEN, **options}
        if request.param == "sync":
            client = LeptonClient(**options)
        else:
            client = Blocking(AsyncLeptonClient(**options), loop)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close() if request.param == "sync" else client.aclose()
    loop.close()


@pytest.fixture
def client(connect):
    return connect()


def a_job(name, *command):
    return LeptonJob(
        metadata=Metadata(name=name), spec=JobSpec(container=Container(command=list(command)))
    )


def an_endpoint(name):
    return LeptonDeployment(metadata=Metadata(name=name), spec=EndpointSpec(model="digits"))


def ids(jobs):
    return [job.metadata.id for job in jobs]


# --- resources -----------------------------------------------------------------------------------


def test_a_job_is_created_found_stopped_started_and_removed(client, server):
    made = client.jobs.create(a_job("hello", "echo", "hi"))
    assert made.metadata.name == "hello"
    assert made.spec.container.command == ["echo", "hi"]
    assert client.jobs.get(made.metadata.id) == made
    assert client.jobs.find("hello") == made
    assert ids(client.jobs.list()) == [made.metadata.id]
    client.jobs.stop(made.metadata.id)
    assert client.jobs.get(made.metadata.id).status.state == "Stopped"
    client.jobs.start(made.metadata.id)
    assert client.jobs.get(made.metadata.id).status.state == "Queueing"
    client.jobs.remove(made.metadata.id)
    assert server.jobs == {}


def test_a_name_means_its_newest_job_and_nothing_that_only_contains_it(client, server):
    old, other, new = (server.add_job(name) for name in ("train", "trainer", "train"))
    server.jobs[new]["metadata"]["created_at"] += 1
    assert client.jobs.find("train").metadata.id == new
    assert client.jobs.find(old).metadata.id == old
    with pytest.raises(NotFound, match="no job has the name or the id 'trai'"):
        client.jobs.find("trai")
    assert other in server.jobs


def test_a_list_goes_through_all_pages_and_filters(client, server):
    made = [server.add_job("many") for _ in range(501)]
    gone = server.add_job("gone", "Archived")
    assert ids(client.jobs.list()) == made
    assert ids(client.jobs.list(limit=2)) == made[:2]
    assert ids(client.jobs.list(mode="alive_and_archive", q="gone")) == [gone]
    assert ids(client.jobs.list(status=["archi"], mode="archive_only")) == [gone]


def test_waiting_ends_with_the_job_or_in_time(client, server):
    job_id = server.add_job("short")
    with pytest.raises(TryLater) as caught:
        client.jobs.wait(job_id, timeout_s=0.05)
    assert caught.value.hint == f"see `leptonai job why {job_id}`"

    def finish():
        server.jobs[job_id]["status"] |= {"state": "Failed", "exit_code": 3}

    threading.Timer(0.1, finish).start()
    assert client.jobs.wait(job_id, timeout_s=30).status.exit_code == 3


def test_replicas_events_and_reasons_are_read(client, server):
    job_id = server.add_job("seen")
    server.add_replica(job_id, f"{job_id}-0-abcde")
    event = {"type": "Normal", "reason": "Placed", "count": 1, "last_observed_time": "2030-01-01"}
    server.events[job_id] = [event]
    server.why["because"] = "needs 8 GPUs"
    assert [each.id for each in client.jobs.replicas(job_id)] == [f"{job_id}-0-abcde"]
    assert [each.reason for each in client.jobs.events(job_id)] == ["Placed"]
    assert client.jobs.why(job_id).because == "needs 8 GPUs"


def test_an_endpoint_is_created_updated_and_removed(client, server):
    made = client.endpoints.create(an_endpoint("digits"))
    assert made.metadata.name == "digits"
    with pytest.raises(AlreadyExists, match="endpoint digits exists"):
        client.endpoints.create(an_endpoint("digits"))
    patch = {"spec": {"model": None, "resource_requirement": {"min_replicas": 2}}}
    changed = client.endpoints.update("digits", patch)
    assert (changed.spec.model, changed.spec.replicas) == (None, 2)
    assert [each.metadata.name for each in client.endpoints.list()] == ["digits"]
    assert client.endpoints.restart("digits") == client.endpoints.get("digits")
    assert client.endpoints.readiness("digits") == client.endpoints.terminations("digits") == {}
    client.endpoints.remove("digits")
    assert server.endpoints == {}


def test_waiting_for_an_endpoint_says_why_it_was_in_vain(client, server):
    client.endpoints.create(an_endpoint("digits"))
    status = server.endpoints["digits"]["status"]
    status["message"] = "the command exits with 1"
    with pytest.raises(TryLater, match=r"still Starting after 0\.05 s: the command exits with 1"):
        client.endpoints.wait_ready("digits", timeout_s=0.05)
    status |= {"state": "Not Ready", "phase": "Stopped"}
    with pytest.raises(Conflict, match="is Stopped, so it will not get ready"):
        client.endpoints.wait_ready("digits")
    status |= {"state": "Ready", "phase": "Ready"}
    assert client.endpoints.wait_ready("digits").status.state == "Ready"


def test_secrets_nodes_shapes_and_the_workspace_are_read(client):
    client.secrets.create("KEY", "value")
    assert [(item.name, item.value) for item in client.secrets.list()] == [("KEY", None)]
    with pytest.raises(AlreadyExists):
        client.secrets.create("KEY", "other")
    client.secrets.remove("KEY")
    assert client.secrets.list() == []
    assert [group.metadata.id for group in client.nodes.groups()] == ["local"]
    assert [node.spec.limits for node in client.nodes.nodes("local")] == ["cgroup-v2"]
    assert [shape.spec.memory_in_mb for shape in client.nodes.shapes()] == [4096]
    assert client.workspace().workspace_name == "default"


# --- logs ----------------------------------------------------------------------------------------


def test_characters_that_are_cut_between_chunks_arrive_whole(client, server):
    job_id = server.add_job("log")
    text = "größe: 5 µm\n火星\nno end 🚀".encode()
    server.add_replica(job_id, "r", *(text[i : i + 1] for i in range(len(text))))
    assert list(client.jobs.log(job_id, "r")) == ["größe: 5 µm", "火星", "no end 🚀"]


def test_a_broken_log_stream_goes_on_where_it_was(client, server):
    job_id = server.add_job("log")
    server.add_replica(job_id, "r")
    tries = []

    def chunks():
        tries.append(1)
        yield b"one\nt"
        if len(tries) == 1:
            raise ConnectionResetError
        yield b"wo\nthree\n"

    server.logs["r"] = chunks
    assert list(client.jobs.log(job_id, "r")) == ["one", "two", "three"]
    assert len(tries) == 2


def test_lines_come_while_the_replica_runs(client, server):
    job_id = server.add_job("log")
    server.add_replica(job_id, "r")
    go_on = threading.Event()

    def chunks():
        yield b"first\n"
        assert go_on.wait(30)
        yield b"second\n"

    server.logs["r"] = chunks
    lines = client.jobs.log(job_id, "r")
    assert next(lines) == "first"
    go_on.set()
    assert list(lines) == ["second"]


def test_history_is_paged_without_loss_or_repetition(client, server):
    server.history = [(at // 3, f"line {at}") for at in range(25_000)]
    job_id = server.add_job("log")
    found = [line for _, line in client.jobs.history(job_id, 0, 10_000)]
    assert found == [f"line {at}" for at in range(25_000)]


def test_the_log_of_what_is_not_there_is_an_error(client):
    with pytest.raises(NotFound, match="there is no job nope"):
        list(client.jobs.log("nope", "r"))


# --- trees, datasets, models ---------------------------------------------------------------------


@pytest.fixture
def tar_trees(monkeypatch, tmp_path):
    """Stands for `leptonai.blobs.tree`, which has tests of its own."""

    def pack(directory):
        path = tmp_path / "packed.tar"
        with tarfile.open(path, "w") as tar:
            for file in sorted(directory.iterdir()):
                info = tarfile.TarInfo(file.name)
                info.size = file.stat().st_size
                tar.addfile(info, io.BytesIO(file.read_bytes()))
        content = path.read_bytes()
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        return SimpleNamespace(path=path, digest=digest)

    def unpack(tar_path, directory):
        with tarfile.open(tar_path) as tar:
            tar.extractall(directory, filter="data")

    module = SimpleNamespace(pack=pack, unpack=unpack)
    monkeypatch.setitem(__import__("sys").modules, "leptonai.blobs.tree", module)
    return tmp_path / "packed.tar"


def a_directory(tmp_path, content):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "data.txt").write_text(content)
    return source


def test_a_tree_is_sent_once_and_comes_back_equal(client, server, tar_trees, tmp_path):
    source = a_directory(tmp_path, "x" * 1_000_000)
    digest = client.trees.push(source)
    assert client.trees.push(source) == digest
    assert [seen.split("/")[0] for seen in server.seen] == ["HEAD ", "PUT ", "HEAD "]
    assert not tar_trees.exists()
    client.trees.pull(digest, tmp_path / "copy")
    assert (tmp_path / "copy" / "data.txt").read_text() == "x" * 1_000_000
    with pytest.raises(InvalidRequest, match="copy is not empty"):
        client.trees.pull(digest, tmp_path / "copy")


def test_a_damaged_tree_is_refused(client, server, tar_trees, tmp_path):
    digest = client.trees.push(a_directory(tmp_path, "good"))
    server.blobs[digest] = b"bad"
    with pytest.raises(Internal, match=f"the blob {digest} arrived as sha256:"):
        client.trees.pull(digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_equal_files_make_no_new_version(client, server, tar_trees, tmp_path):
    first = client.datasets.push("digits", a_directory(tmp_path, "1"), format="digits")
    again = client.datasets.push("digits", a_directory(tmp_path, "1"))
    second = client.datasets.push(
        "digits", a_directory(tmp_path, "2"), lineage={"from": "x"}, attributes={"rows": 2}
    )
    assert again == first
    assert (first.metadata.version, second.metadata.version) == (1, 2)
    assert client.datasets.get("digits") == second
    assert client.datasets.get("digits@1") == first
    assert client.datasets.list() == [first, second]
    assert client.datasets.download("digits@1", tmp_path / "copy") == first
    assert (tmp_path / "copy" / "data.txt").read_text() == "1"
    client.datasets.remove("digits@1")
    with pytest.raises(NotFound):
        client.datasets.get("digits@1")
    assert client.models.list() == []
    for _ in range(501):
        server.artifacts["models"].append(msgspec.to_builtins(first))
        server.artifacts["models"][-1]["metadata"]["version"] = len(server.artifacts["models"])
    assert len(client.models.list()) == 501


# --- faults --------------------------------------------------------------------------------------


def test_calls_survive_a_restart_of_the_platform(connect, server):
    client = connect(retry_for_s=30)
    job_id = server.add_job("kept")
    client.jobs.get(job_id)
    server.stop()
    threading.Timer(0.3, server.start).start()
    assert client.jobs.get(job_id).metadata.id == job_id


def test_a_kept_connection_that_the_server_closed_is_not_used_again(connect, server):
    client = connect(retry_for_s=0)
    client.secrets.list()
    server.stop()
    server.start()
    client.secrets.create("KEY", "value")
    assert list(server.secrets) == ["KEY"]


def test_a_create_whose_answer_was_lost_makes_one_job(client, server):
    server.drop = 1
    made = client.jobs.create(a_job("once", "true"))
    assert ids(client.jobs.list()) == [made.metadata.id]
    assert [seen for seen in server.seen if seen.startswith("POST")] == ["POST /jobs"] * 2


def test_a_removal_whose_answer_was_lost_is_a_removal(client, server):
    job_id = server.add_job("gone")
    server.drop = 1
    client.jobs.remove(job_id)
    assert server.jobs == {}
    with pytest.raises(NotFound):
        client.jobs.remove(job_id)


def test_what_might_be_done_twice_is_not_sent_twice(client, server):
    server.drop = 1
    with pytest.raises(Unavailable):
        client.secrets.create("KEY", "value")
    assert server.seen == ["POST /usersecrets"]


def test_an_overloaded_or_starting_server_is_asked_again(client, server):
    server.answer_instead.extend([503, 502, 429, 503])
    assert client.jobs.list() == []
    assert len(server.seen) == 5


def test_other_errors_are_told_at_once_as_what_they_are(connect, server):
    server.answer_instead.append(500)
    with pytest.raises(Internal, match="not now"):
        connect().jobs.list()
    with pytest.raises(Unauthenticated) as caught:
        connect(token="wrong").jobs.list()
    assert caught.value.wire() == {
        "code": "Unauthenticated",
        "message": "wrong token",
        "hint": "use `leptonai token show`",
    }
    with pytest.raises(NotFound, match="there is no such workspace"):
        connect(url=server.url + "x").jobs.list()
    assert len(server.seen) == 3


def test_a_platform_that_is_not_there_is_named_after_the_time_to_retry(connect, server):
    server.stop()
    with pytest.raises(Unavailable, match=r"cannot reach Lepton at .*: connection refused"):
        connect(retry_for_s=0.2).jobs.list()


def test_something_else_than_a_workspace_is_recognised(client, server, monkeypatch):
    monkeypatch.setattr(server, "answer", lambda *_: b"<html>")
    with pytest.raises(Internal) as caught:
        client.workspace()
    assert "is this the URL of a Lepton workspace" in caught.value.hint


@pytest.mark.parametrize("path", ["../../etc/passwd", "data/../../x", ".."])
def test_a_path_that_leads_out_of_its_volume_is_told_so_before_anything_is_sent(client, path):
    with pytest.raises(InvalidRequest) as told:
        client.storage.entry("default", path)
    assert told.value.message == f"{path} leads out of the volume"
    assert told.value.hint == "name it from the volume's root, without '..'"


def test_names_that_are_no_path_segments_are_refused_or_quoted(client, server):
    for name in ("", ".", ".."):
        with pytest.raises(InvalidRequest):
            client.jobs.get(name)
    with pytest.raises(NotFound):
        client.jobs.get("a/b?c#d")
    assert server.seen == ["GET /jobs/a%2Fb%3Fc%23d?job_query_mode=alive_and_archive"]


def test_text_that_is_no_unicode_is_refused(client):
    with pytest.raises(InvalidRequest, match="not valid UTF-8"):
        client.jobs.create(a_job("x", "\udc80"))


def test_many_threads_share_one_sync_client(server):
    job_ids = [server.add_job("shared") for _ in range(8)]
    found = []

    def read(client, job_id):
        found.extend(client.jobs.get(job_id).metadata.id for _ in range(5))

    with LeptonClient(server.url, TOKEN) as client:
        threads = [threading.Thread(target=read, args=(client, each)) for each in job_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == sorted(job_ids * 5)


def test_many_tasks_share_one_async_client(server):
    job_ids = [server.add_job("shared") for _ in range(20)]

    async def read_all():
        async with AsyncLeptonClient(server.url, TOKEN) as client:
            return await asyncio.gather(*(client.jobs.get(each) for each in job_ids))

    assert ids(asyncio.run(read_all())) == job_ids
