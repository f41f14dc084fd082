"""Programs run as the same user, next to the platform's own files: what they do there spoils the
record of themselves, and nothing else."""

import io
import os
import signal
import tarfile
import time

import pytest

from leptonai.blobs.tree import unpack
from leptonai.client import LeptonClient
from leptonai.engines.local import logs
from leptonai.errors import InvalidRequest
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.supervisor import Ending, Folder, Outcome
from leptonai.testing.platform import RunningPlatform, eventually

KILLED = 128 + signal.SIGKILL
FOR_EVER_NS = (1 << 63) - 1
OVER = {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}

# What it does in its attempt's folder, and the exit code that is told (None: nobody knows it).
VANDALS = {
    "log-is-a-pipe": ("rm ../log; mkfifo ../log; exit 3", 3),
    "log-is-a-link": ("rm ../log; ln -s /etc/passwd ../log; exit 3", 3),
    "log-is-a-folder": ("rm ../log; mkdir ../log; exit 3", 3),
    "marks-are-a-pipe": ("mkfifo ../log.marks; sleep 1.2; exit 3", 3),
    "old-log-is-a-pipe": ("mkfifo ../log.old.5; echo > ../log.old.x; exit 3", 3),
    "marker-is-a-pipe": ("mkfifo ../container; exit 3", 3),
    "marker-names-a-program": ("echo /bin/nope > ../container; exit 3", 3),
    "strange-ends": ("touch ../exited.abc ../exited.99999999 ../failed. ../lost.x; exit 3", 3),
    "claim-is-a-folder": ("rm ../claim; mkdir ../claim; exit 3", 3),
    "claim-is-noise": ("head -c 9999 /dev/urandom > ../claim; exit 3", 3),
    "claim-is-gone": ("echo spoilt; rm ../claim; exit 3", 3),
    "status-is-a-folder": ("rm ../status; mkdir ../status; exit 3", 3),
    "folder-is-gone": ("cd ..; rm -rf $PWD; exit 3", None),
    "folder-is-locked": ("cd ..; chmod 000 .; exit 3", 3),
    "group-is-killed": ("kill -9 0; sleep 600", None),
    "wrapper-is-killed": ("kill -9 $PPID; sleep 600", None),
    "streams-are-closed": ("exec 0<&- 1>&- 2>&-; exit 3", 3),
    "daemon-stays": ("(setsid sleep 600 &); exit 3", 3),
    "junk-beside": ("touch ../../junk; mkdir ../../nothing; ln -s loop ../../loop; exit 3", 3),
}
SUSPENDED = {"itself": "kill -STOP $$; exit 3", "its-wrapper": "kill -STOP $PPID; exit 3"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("vandals") / "home") as running:
        yield running


def submitted(client: LeptonClient, name: str, script: str) -> str:
    spec = JobSpec(container=Container(command=["sh", "-c", script]))
    job = client.jobs.create(LeptonJob(metadata=Metadata(id=name, name=name), spec=spec))
    assert job.metadata.id is not None
    return job.metadata.id


def state(client: LeptonClient, id: str) -> JobState:
    return client.jobs.get(id).status.state


def test_a_program_that_spoils_its_own_folder_spoils_nothing_else(platform):
    with platform.client() as client:
        ids = {name: submitted(client, name, script) for name, (script, _) in VANDALS.items()}
        for id in ids.values():
            eventually(lambda job=id: state(client, job), OVER.__contains__)
        ends = {name: client.jobs.get(id).status.exit_code for name, id in ids.items()}
        assert ends == {name: code for name, (_, code) in VANDALS.items()}
        for name, id in ids.items():
            shown = [text for _, text in client.jobs.history(id, 0, FOR_EVER_NS)]
            assert "root:" not in "".join(shown)
            assert ("spoilt" in shown) == ("echo spoilt" in VANDALS[name][0])
            for replica in client.jobs.replicas(id):
                assert [*client.jobs.log(id, replica.metadata.id, follow=False)] == shown
        after = submitted(client, "after", "exit 0")
        eventually(lambda: state(client, after), OVER.__contains__)
    platform.kill()
    platform.up()  # adopts what they left
    with platform.client() as client:
        assert {name: client.jobs.get(id).status.exit_code for name, id in ids.items()} == ends


def test_what_is_suspended_ends_as_soon_as_it_is_asked_to(platform):
    with platform.client() as client:
        ids = [submitted(client, name, script) for name, script in SUSPENDED.items()]
        for id in ids:
            eventually(lambda job=id: state(client, job), JobState.RUNNING.__eq__)
        time.sleep(0.2)  # for the script to get to its second word
        for id in ids:
            client.jobs.stop(id)
        for id in ids:
            eventually(lambda job=id: state(client, job), OVER.__contains__)
        codes = {replica.status.exit_code for id in ids for replica in client.jobs.replicas(id)}
        assert not codes & {KILLED, None}  # nobody waited for the end of the grace


def test_a_pipe_in_the_place_of_a_log_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "log")
    os.mkfifo(tmp_path / "log.marks")
    assert logs.read(tmp_path / "log", offset=0, limit=10) is None
    (tmp_path / "log").unlink()
    (tmp_path / "log").write_bytes(b"a\n")
    log = logs.Log.open(tmp_path / "log")
    log.mark(5)
    log.trim(1)
    assert logs.read(tmp_path / "log", offset=0, limit=10).data == b"a\n"
    assert len(log.marks) > 0  # in memory, where they cannot be written down


def test_a_log_that_is_a_link_is_neither_read_nor_cut(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * 100_000)
    (tmp_path / "log").symlink_to(precious)
    assert logs.read(tmp_path / "log", offset=0, limit=10) is None
    logs.Log.open(tmp_path / "log").trim(10)
    assert precious.read_bytes() == b"x" * 100_000


@pytest.mark.parametrize(
    "claim",
    [
        b"",
        b"started",
        b"started x y z w\n.\n",
        b"started " + b"9" * 40 + b" 1 b 2\n.\n",
        b"\xff\n.\n",
    ],
)
def test_a_claim_that_no_wrapper_wrote_is_none(tmp_path, claim):
    folder = Folder(tmp_path)
    folder.prepare()
    (tmp_path / "claim").write_bytes(claim)
    assert folder.read().wrapper is None
    (tmp_path / "exited.x").touch()
    (tmp_path / "exited.7").touch()
    end = folder.read()
    assert isinstance(end, Ending)
    assert (end.outcome, end.code) == (Outcome.EXITED, 7)


def test_a_kilobyte_of_tar_does_not_become_gigabytes(tmp_path):
    member = tarfile.TarInfo("huge")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = header[398:410] = b"00000000000\0"  # no data at all
    header[483:495] = b"77777777777\0"  # and 8 GiB of size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    with pytest.raises(InvalidRequest, match="'huge' is neither a file"):
        unpack(io.BytesIO(bytes(header) + b"\0" * 1024), tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0
