"""Volumes and buckets from the command line, on a platform that runs."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from leptonai.testing.platform import RunningPlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("storage") / "home") as running:
        yield running


def ran(platform, *command: str, options=()) -> list[str]:
    done = platform.cli("job", "create", "-n", "look", "--follow", *options, "--", *command)
    return done.stdout.splitlines()


def test_what_is_uploaded_is_found_by_jobs_and_downloaded_again(platform, tmp_path):
    source = tmp_path / "images"
    (source / "cats").mkdir(parents=True)
    (source / "cats" / "tom.png").write_bytes(os.urandom(20 << 20))
    (source / "empty").touch()
    assert platform.cli("storage", "upload", str(source), "data").stdout == (
        "uploaded 2 files to default:data\n"
    )
    again = platform.cli("storage", "upload", str(source), "data").stdout
    assert again == "uploaded 0 files to default:data\n", "nothing is sent twice"
    mount = ("--mount", "data:/mnt/images")
    script = "cmp /mnt/images/cats/tom.png $1 && echo made > /mnt/images/made && pwd && ls /mnt"
    lines = ran(platform, "sh", "-c", script, "-", str(source / "cats/tom.png"), options=mount)
    assert lines[0].endswith("/work"), "it is a mount, and no link in the directory"
    assert "images" in lines[1:]
    assert not Path("/mnt/images").exists(), "nobody else sees it"
    entries = json.loads(platform.cli("storage", "ls", "data", "-o", "json").stdout)
    assert [(e["name"], e["type"], e["size_bytes"]) for e in entries] == [
        ("cats", "dir", 0),
        ("empty", "file", 0),
        ("made", "file", 5),
    ]
    got = tmp_path / "got"
    platform.cli("storage", "download", "data", str(got))
    assert (got / "data/cats/tom.png").read_bytes() == (source / "cats/tom.png").read_bytes()
    assert (got / "data/made").read_text() == "made\n"
    assert sorted(p.name for p in (got / "data").iterdir()) == ["cats", "empty", "made"]
    platform.cli("storage", "mv", "data/made", "data/cats/made")
    platform.cli("storage", "rm", "-r", "data/cats")
    assert platform.answer("storage", "du", "-o", "json")["bytes"] == 0


def test_links_to_directories_are_left_out_of_trees_and_told(platform, tmp_path):
    source = tmp_path / "tree"
    source.mkdir()
    (source / "file").write_text("here\n")
    (source / "loop").symlink_to(".")
    os.mkfifo(source / "pipe")
    sent = platform.cli("storage", "upload", str(source), "tree")
    assert sent.stdout == "uploaded 1 file to default:tree\n"
    assert f"left out: {source}/loop is a link to a directory\n" in sent.stderr
    assert f"left out: {source}/pipe is no file\n" in sent.stderr
    # What a job leaves in a volume may go round in circles, in more ways the deeper it is followed.
    script = "cd /mnt/tree && ln -s . a && ln -s . b && ln -s file c"
    ran(platform, "sh", "-c", script, options=("--mount", "tree:/mnt/tree"))
    got = platform.cli("storage", "download", "tree", str(tmp_path / "got"))
    assert got.stdout == f"downloaded 2 files to {tmp_path}/got/tree\n"
    assert [line for line in got.stderr.splitlines() if "left out" in line] == [
        "left out: /tree/a is a link to a directory",
        "left out: /tree/b is a link to a directory",
    ]
    assert sorted(path.name for path in (tmp_path / "got/tree").iterdir()) == ["c", "file"]
    platform.cli("storage", "rm", "-r", "tree")


def test_a_read_only_mount_cannot_be_written_to(platform):
    platform.cli("storage", "mkdir", "fixed")
    script = "touch /mnt/fixed/x || echo refused"
    lines = ran(platform, "sh", "-c", script, options=("--mount", "fixed:/mnt/fixed:ro"))
    assert lines[-1] == "refused"


def test_the_end_of_what_mounts_is_its_own(platform):
    mount = ("--mount", ":/mnt/all")
    failed = platform.cli(
        "job", "create", "-n", "fails", "--follow", *mount, "--", "sh", "-c", "exit 7", check=False
    )
    assert failed.returncode != 0
    (job,) = (
        j for j in platform.answer("job", "list", "-o", "json") if j["metadata"]["name"] == "fails"
    )
    assert job["status"]["exit_code"] == 7


def test_a_volume_that_was_removed_is_told(platform, tmp_path):
    directory = tmp_path / "shared"
    platform.cli("storage", "add", "shared", "--path", str(directory))
    assert directory.is_dir()
    mount = ("--mount", "/:/mnt/shared:shared")
    create = ("job", "create", "--start-at", "+8s", "-n", "later", *mount, "--", "true")
    job = platform.cli(*create).stdout.strip()
    platform.cli("storage", "remove", "shared")
    refused = platform.cli("job", "create", "-n", "x", *mount, "--", "true", check=False)
    assert "there is no volume 'shared'" in refused.stderr
    with platform.client() as client:
        status = client.jobs.wait(job).status
    assert (status.state, "there is no volume 'shared'" in status.message) == ("Failed", True)


@dataclass(frozen=True)
class ABucket:
    name: str
    url: str
    key: str = "AKIAEXAMPLE"
    secret: str = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def s3_bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = ABucket("pets-bucket", f"http://{host}:{port}")
    keys = {"aws_access_key_id": found.key, "aws_secret_access_key": found.secret}
    s3 = boto3.client("s3", endpoint_url=found.url, region_name="us-east-1", **keys)
    s3.create_bucket(Bucket=found.name)
    s3.put_object(Bucket=found.name, Key="hello", Body=b"from the bucket")
    yield found
    server.stop()


def test_a_bucket_is_opened_with_the_profile_that_a_job_is_given(platform, s3_bucket):
    for name, value in (("s3-key", s3_bucket.key), ("s3-secret", s3_bucket.secret)):
        platform.cli("secret", "create", name, stdin=value)
    where = ("--bucket", s3_bucket.name, "--provider", "s3", "--endpoint", s3_bucket.url)
    keys = ("--region", "us-east-1", "--access-key", "s3-key", "--secret-key", "s3-secret")
    platform.cli("storage", "source", "add", "pets", *where, *keys)
    platform.cli("storage", "source", "permit", "pets", "--user", "ann")
    found = platform.answer("storage", "source", "get", "pets", "-o", "json")["spec"]
    assert found == {
        "name": "pets",
        "workspace": platform.state.workspace,
        "object": {
            "bucket": s3_bucket.name,
            "provider": {"type": "s3", "s3": {"region": "us-east-1", "endpoint": s3_bucket.url}},
            "credentials": {
                "type": "leptonSecret",
                "leptonSecret": {
                    "s3Credentials": {
                        "accessKeySecretName": "s3-key",
                        "secretKeySecretName": "s3-secret",
                    }
                },
            },
        },
        "permissions": {"allowed_users": ["ann"]},
    }
    assert "ann" in platform.cli("storage", "source", "list").stdout
    program = (
        "import boto3, os, stat, sys\n"
        "path = os.environ['AWS_SHARED_CREDENTIALS_FILE']\n"
        "print(oct(os.stat(path).st_mode & 0o777), os.environ['AWS_PROFILE'])\n"
        "s3 = boto3.session.Session(profile_name='pets').client('s3')\n"
        f"print(s3.get_object(Bucket='{s3_bucket.name}', Key='hello')['Body'].read().decode())\n"
    )
    lines = ran(platform, sys.executable, "-c", program, options=("--bucket", "pets"))
    assert lines == ["0o600 pets", "from the bucket"]
