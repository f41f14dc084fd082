"""What a training records, in memory and in its directory, without any workspace."""

import json
import math
import os
import random
import struct
import subprocess
import sys
import textwrap
import time
from array import array
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.blobs.points import Batch, Series, decode_batch, encode_batch, frame, frames
from leptonai.cli import local_runs
from leptonai.core.points import replay
from leptonai.errors import Conflict, Forbidden, InvalidRequest, NotFound, TooLarge, Unavailable
from leptonai.spec.metadata import Metadata
from leptonai.spec.runs import Run, RunState, RunStatus
from leptonai.testing.platform import eventually
from leptonai.tracking import active, facts, sending
from leptonai.tracking.facts import masked
from leptonai.tracking.folder import RunFolder, folders_in
from leptonai.tracking.machine import Machine, visible
from leptonai.tracking.tensorboard import FEW, EventFile, encode


@pytest.fixture
def begin(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("LEPTON_") or name == "RANK"]:
        monkeypatch.delenv(name)

    def begin(name="cats", **given):
        defaults = dict.fromkeys(("params", "tags", "project", "id", "client"))
        options = {**defaults, "directory": tmp_path / "runs", "local": True, **given}
        return active.begin(name, **options)

    return begin


def curve(run, key, most=1 << 30):
    found = local_runs.curves(run.directory, run.id, [key], most, None, None)[key]
    return list(zip(found.steps, found.values, strict=True))


# --- logging -------------------------------------------------------------------------------------


def test_a_run_in_a_directory_is_read_back_whole(begin):
    with begin(
        params={"lr": 0.1, "net": {"depth": 3}, "inf": math.inf, "rest": [1, 2]},
        tags={"team": "vision"},
        project="pets",
    ) as run:
        run.log(loss=2.0)
        run.log({"loss": 1, "acc": True}, step=5)
        run.log(loss=0.5)
        run.log_tags("quick")
        run.log_data(train="pets@3")
        run.log_model(made="cat-dog@1")
    assert curve(run, "loss") == [(0, 2.0), (5, 1.0), (6, 0.5)]
    assert curve(run, "acc") == [(5, 1.0)]
    found = local_runs.load(RunFolder(run.directory))
    assert found.spec.params == {"lr": 0.1, "net.depth": 3, "inf": "inf", "rest": "[1, 2]"}
    assert found.metadata.labels == {"team": "vision", "project": "pets", "quick": ""}
    assert (found.spec.datasets, found.spec.models) == (
        {"train": "pets@3"},
        {"made": "cat-dog@1"},
    )
    assert found.status.state is RunState.FINISHED
    assert found.status.summary["loss"].last == 0.5
    assert found.spec.environment["python"]


def test_a_run_ends_as_its_block_does(begin):
    for error, state in ((ValueError, "Failed"), (KeyboardInterrupt, "Stopped")):
        with pytest.raises(error), begin() as run:
            raise error("no")
        status = RunFolder(run.directory).load().status
        assert (status.state, status.message) == (state, f"{error.__name__}: no")
    with pytest.raises(Conflict):
        run.log(loss=1.0)


def test_after_a_resume_what_was_past_the_checkpoint_is_gone(begin):
    with begin() as run:
        for step in range(10):
            run.log(loss=float(step))
        run.resume(4)
        run.log(loss=100.0)
    assert curve(run, "loss") == [*((s, float(s)) for s in range(5)), (5, 100.0)]


def test_a_second_process_goes_on_with_the_same_run(begin):
    with begin() as first:
        first.log(loss=1.0, step=3)
    with begin(id=first.id) as second:
        second.resume(2)
        second.log(loss=2.0)
    assert second.directory == first.directory
    assert curve(first, "loss") == [(3, 2.0)]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ({"": 1.0}, 0),
        ({"a\nb": 1.0}, 0),
        ({"k" * 300: 1.0}, 0),
        ({"loss": "low"}, 0),
        ({"loss": None}, 0),
        ({"loss": [1.0, 2.0]}, 0),
        ({"loss": 1.0}, 1.5),
        ({"loss": 1.0}, 1 << 60),
        ({"loss": 1.0}, "x"),
        ({f"k{i}": 1.0 for i in range(2_001)}, 0),
    ],
)
def test_what_is_no_point_is_refused_where_it_is_logged(begin, values, step):
    with begin() as run:
        with pytest.raises(InvalidRequest) as caught:
            run.log(values, step=step)
        assert caught.value.hint
        run.log(loss=1.0, step=0)
    assert curve(run, "loss") == [(0, 1.0)]


def test_when_too_much_is_logged_the_oldest_goes_and_is_counted(begin, monkeypatch, caplog):
    monkeypatch.setattr(active, "MAX_QUEUED", 100)
    monkeypatch.setattr(sending, "SEND_EVERY_S", 3_600.0)
    run = begin()
    run.flush()
    for step in range(150):
        run.log(a=1.0, b=2.0, step=step)
    run.finish()
    assert run.dropped == 100
    assert [step for step, _ in curve(run, "a")] == list(range(50, 150))
    assert "points are dropped" in caplog.text


def test_another_rank_writes_keys_of_its_own(begin, monkeypatch):
    monkeypatch.setenv("LEPTON_JOB_NAME", "train-ab12")
    monkeypatch.setenv("LEPTON_WORKSPACE_ID", "ws")
    ids = set()
    for rank in ("0", "3"):
        monkeypatch.setenv("RANK", rank)
        with begin(None) as run:
            run.log(loss=float(rank))
        ids.add((run.id, run.name))
    ((_, name),) = ids
    assert name == "train"
    assert curve(run, "loss") == [(0, 0.0)]
    assert curve(run, "rank3/loss") == [(0, 3.0)]


def test_ranks_without_a_job_leave_the_run_to_the_first(begin, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with begin() as run:
        run.log(loss=1.0)
        run.log_params(lr=1)
    assert not (run.directory / "run.json").exists()


def test_a_child_writes_beside_its_parent(begin):
    run = begin()
    run.log(parent=1.0)
    child = os.fork()
    if child == 0:
        run.log(child=2.0, step=7)
        os._exit(0 if run.flush() else 1)
    assert os.waitpid(child, 0)[1] == 0
    run.finish()
    assert (curve(run, "parent"), curve(run, "child")) == ([(0, 1.0)], [(7, 2.0)])


def test_a_process_that_is_killed_keeps_what_was_flushed(tmp_path):
    program = """
        import os, signal
        from leptonai import run
        run.start("k", local=True, directory="runs")
        for step in range(1000):
            run.log(loss=step, step=step)
        run.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, check=False)
    (folder,) = folders_in(tmp_path / "runs")
    assert local_runs.load(folder).status.summary["loss"].step == 999


@pytest.mark.parametrize(
    ("end", "state", "message"),
    [("", "Finished", ""), ("raise ValueError('no')", "Failed", "ValueError: no")],
)
def test_a_process_that_does_not_say_how_it_ended_is_judged_by_its_end(
    tmp_path, end, state, message
):
    program = f"from leptonai import run\nrun.log(loss=1.0)\n{end}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_")}
    environment = {**clean, "LEPTON_HOME": str(tmp_path / "nowhere")}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False, env=environment)
    (folder,) = folders_in(tmp_path / "runs")
    status = local_runs.load(folder).status
    assert (status.state, status.message, status.summary["loss"].last) == (state, message, 1.0)


def test_an_artifact_is_kept_beside_and_never_outside(begin, tmp_path):
    (tmp_path / "report.txt").write_text("fine")
    with begin() as run:
        run.log_artifact(tmp_path / "report.txt")
        run.log_artifact(tmp_path / "report.txt", "deep/er/report.txt")
        for name in ("../x", "a/../b", "/etc/x", "a//b"):
            with pytest.raises(InvalidRequest):
                run.log_artifact(tmp_path / "report.txt", name)
        with pytest.raises(NotFound):
            run.log_artifact(tmp_path / "nothing.txt")
    kept = sorted(p.relative_to(run.directory) for p in run.directory.rglob("report.txt"))
    assert [str(path) for path in kept] == ["artifacts/deep/er/report.txt", "artifacts/report.txt"]


# --- batches -------------------------------------------------------------------------------------

ONE = Series("loss", bytes(8), bytes(8), bytes(8))


def test_a_file_of_batches_is_read_up_to_where_it_was_cut(tmp_path):
    file = tmp_path / "points.log"
    whole = frame(b"first") + frame(b"second")
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        expected = [b"first"] if cut >= len(frame(b"first")) else []
        assert [body for body, _ in frames(file)] == expected
    file.write_bytes(whole + frame(b"third")[:-1] + b"!")
    assert [body for body, _ in frames(file)] == [b"first", b"second"]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_a_batch_by_accident(raw):
    try:
        decode_batch(raw)
    except (InvalidRequest, TooLarge) as refusal:
        assert refusal.hint


@pytest.mark.parametrize(
    "batch",
    [
        Batch("A" * 16, 1, 0, (ONE,)),
        Batch("a" * 16, 0, 0, (ONE,)),
        Batch("a" * 16, 1, 1 << 40, (ONE,)),
        Batch("a" * 16, 1, 0, (ONE,), resume=1 << 60),
        Batch("a" * 16, 1, 0, (ONE, ONE)),
        Batch("a" * 16, 1, 0, (Series("loss", bytes(8), bytes(16), bytes(8)),)),
        Batch("a" * 16, 1, 0, (Series("loss", bytes(9), bytes(9), bytes(9)),)),
        Batch("a" * 16, 1, 0, (Series("", bytes(8), bytes(8), bytes(8)),)),
        Batch("a" * 16, 1, 0, (Series("loss", b"\xff" * 7 + b"\x7f", bytes(8), bytes(8)),)),
    ],
)
def test_what_nobody_should_store_is_refused(batch):
    assert decode_batch(encode_batch(Batch("a" * 16, 1, 0, (ONE,)))).count == 1
    with pytest.raises(InvalidRequest):
        decode_batch(encode_batch(batch))


# --- TensorBoard ---------------------------------------------------------------------------------


def records_of(data):
    """(time, step, tag, value) of each event, every checksum verified: decoded by hand."""
    found = []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + size]
        for part, crc in ((data[:8], data[8:12]), (body, data[12 + size : 16 + size])):
            assert struct.unpack("<I", crc)[0] == masked_crc(part)
        found.append(event(body))
        data = data[16 + size :]
    return found


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(body):
    while body:
        tag, body = body[0], body[1:]
        if tag & 7 == 0:
            value, body = varint(body)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if size is None:
                size, body = varint(body)
            value, body = body[:size], body[size:]
        yield tag >> 3, value


def varint(body):
    value = 0
    for at, byte in enumerate(body):
        value |= (byte & 0x7F) << 7 * at
        if not byte & 0x80:
            return value, body[at + 1 :]
    raise AssertionError("a varint that does not end")


def event(body):
    outer = dict(fields(body))
    step = outer[2] - (1 << 64) if outer[2] >> 63 else outer[2]
    (seconds,) = struct.unpack("<d", outer[1])
    if 5 not in outer:
        return seconds, step, outer.get(3, outer.get(7)), None
    inner = dict(fields(dict(fields(outer[5]))[1]))
    return seconds, step, inner[1].decode(), struct.unpack("<f", inner[2])[0]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-(1 << 53) + 1, (1 << 53) - 1),
            st.floats(width=32, allow_nan=False),
            st.integers(0, 4_000_000_000_000),
        ),
        min_size=1,
        max_size=2 * FEW,
    ),
    st.text(min_size=1, max_size=200),
)
def test_events_say_what_was_logged(points, tag):
    steps, values, times = zip(*points, strict=True)
    expected = [(t / 1000, s, tag, v) for s, v, t in points]
    assert records_of(encode(tag, steps, values, times)) == expected


def test_an_event_file_tells_of_a_resume(tmp_path):
    events = EventFile(tmp_path)
    events.resume(41)
    events.close()
    (file,) = tmp_path.iterdir()
    version, resumed = records_of(file.read_bytes())
    assert version[2] == b"brain.Event:2"
    assert resumed[1:] == (42, b"\x08\x01", None)  # SessionLog.START


def test_tensorboard_itself_reads_it(begin):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with begin() as run:
        for step in range(100):
            run.log(loss=step / 2, step=step)
        run.resume(49)
        run.log(loss=-1.0)
    events = accumulator.EventAccumulator(str(run.directory), size_guidance={"scalars": 0})
    events.Reload()
    found = [(each.step, each.value) for each in events.Scalars("loss")]
    assert found == [*((s, s / 2) for s in range(50)), (50, -1.0)]


# --- facts ---------------------------------------------------------------------------------------

SECRET = "lepton_abcdefghijklmnop"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["train.py", "--lr", "0.1"], ["train.py", "--lr", "0.1"]),
        (["--token", "hunter2"], ["--token", "***"]),
        (["--api-key=hunter2"], ["--api-key=***"]),
        (["DB_PASSWORD=hunter2"], ["DB_PASSWORD=***"]),
        (["--auth", "--lr", "1"], ["--auth", "--lr", "1"]),
        ([SECRET], ["***"]),
        (["--name", "hf_abcdefghijkl"], ["--name", "***"]),
        (["s3://user:word@host/x"], ["s3://***@host/x"]),
        (["--x=0123456789abcdef0123456789abcdef"], ["--x=***"]),
        (["--tokenizer", "bert-base-uncased"], ["--tokenizer", "bert-base-uncased"]),
        (["--max-tokens", "512"], ["--max-tokens", "512"]),
    ],
)
def test_arguments_are_recorded_without_what_looks_like_a_secret(arguments, shown):
    assert masked(arguments) == shown


def test_git_state_tells_a_clean_tree_from_a_changed_one(tmp_path):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    assert facts.git_state(tmp_path) is None
    git("init", "-b", "main")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = facts.git_state(tmp_path)
    assert (clean.branch, clean.dirty, clean.diff_digest) == ("main", False, "")
    digests = set()
    for text in ("2", "3"):
        (tmp_path / "train.py").write_text(text)
        changed = facts.git_state(tmp_path)
        assert (changed.commit, changed.dirty) == (clean.commit, True)
        digests.add(changed.diff_digest)
    assert len(digests) == 2


def test_no_value_of_a_variable_is_recorded(begin, monkeypatch):
    monkeypatch.setenv("SOME_SECRET", "s3cret-value")
    with begin() as run:
        run.log(loss=1.0)
    recorded = b"".join(path.read_bytes() for path in run.directory.rglob("*") if path.is_file())
    assert b"s3cret-value" not in recorded
    assert json.loads((run.directory / "run.json").read_bytes())["spec"]["command"]


def test_a_machine_is_measured_with_its_processes():
    machine = Machine(os.getpid(), gpus=True)
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        until = time.monotonic() + 30
        while machine.sample()["system/cpu_percent"] == 0:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert machine.sample()["system/memory_bytes"] > 1_000_000
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("named", "indices"),
    [(None, [0, 1, 2, 3]), ("", []), ("2,0", [2, 0]), ("1,9,0", [1]), ("GPU-x", [])],
)
def test_only_the_gpus_that_cuda_shows_are_measured(named, indices):
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert visible(environ, 4) == indices


def test_a_gpu_that_does_not_tell_everything_is_measured_all_the_same(monkeypatch):
    def power_mw(index):
        if index == 1:
            raise RuntimeError("not supported")
        return 250_000

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=40),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=7),
        nvmlDeviceGetPowerUsage=power_mw,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    found = Machine(os.getpid(), gpus=True).sample()
    assert {key: value for key, value in found.items() if key.startswith("gpu/")} == {
        "gpu/0/utilization_percent": 40.0,
        "gpu/0/memory_bytes": 7.0,
        "gpu/1/utilization_percent": 40.0,
        "gpu/1/memory_bytes": 7.0,
        "gpu/1/power_watts": 250.0,
    }


# --- the workspace -------------------------------------------------------------------------------


class FlakyWorkspace:
    """Fails now and then, also after it has done what it was asked; stores a batch once."""

    def __init__(self, failures=()):
        self.failures = deque(failures)  # None: answers; "before", "after": fails then
        self.batches = []
        self.started = 0
        self.specs = []

    def _ask(self, act):
        how = self.failures.popleft() if self.failures else None
        if how == "before":
            raise Unavailable("not now")
        answer = act()
        if how == "after":
            raise Unavailable("no answer")
        return answer

    def start(self, run):
        self.started += 1
        status = RunStatus(state=RunState.RUNNING, started_at=5)
        return self._ask(lambda: replace(run, status=status))

    def append(self, id, batch):
        self._ask(lambda: self.batches.append(decode_batch(batch)))

    def update(self, id, *, spec, labels):
        self._ask(lambda: self.specs.append(spec))

    def end(self, id, state, message):
        self._ask(lambda: None)


def recorded_by(workspace, folder):
    metadata = Metadata(id="0" * 32, name="r")
    run = Run(metadata=metadata, status=RunStatus(state=RunState.RUNNING))
    recorded = active.ActiveRun(sending.Sender(run, folder, lambda: workspace, rank=0))
    recorded.record()
    return recorded


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(sending, "SEND_EVERY_S", 0.005)
    monkeypatch.setattr(sending, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(sending, "LONGEST_RETRY_S", 0.01)


@pytest.mark.parametrize("seed", range(6))
def test_a_workspace_that_fails_now_and_then_gets_every_point_in_order(tmp_path, quick, seed):
    chance = random.Random(seed)
    workspace = FlakyWorkspace(chance.choices([None, "before", "after"], k=60))
    recorded = recorded_by(workspace, RunFolder(tmp_path))
    for step in range(300):
        recorded.log(loss=float(step), step=step)
        if step % 10 == 0:
            recorded.flush()
    eventually(recorded.flush)
    recorded.finish()
    known, kept = replay(workspace.batches)
    steps = [
        step
        for _, _, batch in kept
        for series in batch.series
        if series.key == "loss"
        for step in array("q", series.steps)
    ]
    assert steps == list(range(300))
    assert known.summary["loss"].last == 299.0
    assert workspace.specs
    assert RunFolder(tmp_path).log_files == []


def test_what_the_workspace_refuses_stays_in_the_directory(tmp_path, quick, caplog):
    class Refusing(FlakyWorkspace):
        def start(self, run):
            raise Forbidden("not you", hint="ask")

    workspace = Refusing()
    recorded = recorded_by(workspace, RunFolder(tmp_path))
    recorded.log(loss=1.0)
    assert recorded.flush()
    recorded.finish()
    assert workspace.batches == []
    assert local_runs.load(RunFolder(tmp_path)).status.summary["loss"].last == 1.0
    assert "not you" in caplog.text


def test_points_that_are_refused_are_counted_and_the_rest_goes_on(tmp_path, quick):
    class Full(FlakyWorkspace):
        def append(self, id, batch):
            if len(self.batches) == 1:
                self.batches.append(None)
                raise TooLarge("too many keys", hint="log less")
            super().append(id, batch)

    workspace = Full()
    recorded = recorded_by(workspace, RunFolder(tmp_path))
    for step in range(3):
        recorded.log(loss=1.0, step=step)
        recorded.flush()
    recorded.finish()
    assert recorded.dropped == 1
    assert len(workspace.batches) == 3


def test_each_process_writes_a_file_of_its_own_and_leaves_it_to_the_next(tmp_path, quick):
    away, there = FlakyWorkspace(["before"] * 1_000), FlakyWorkspace()
    folder = RunFolder(tmp_path)
    living = recorded_by(FlakyWorkspace(["before"] * 10_000), folder)
    ended = recorded_by(away, folder)
    for each in (living, ended):
        each.log(loss=1.0, step=7)
        assert not each.flush()
    ended.finish()
    assert len(folder.log_files) == 2
    after = recorded_by(there, folder)
    eventually(after.flush)
    assert [each.series[0].key for each in there.batches] == ["loss"]
    assert len(folder.log_files) == 1  # of who lives
    after.finish()
    living.finish()
