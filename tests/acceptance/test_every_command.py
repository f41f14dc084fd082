"""Every command there is, against a platform that runs and against none."""

import io
import json
import os
import shlex

import click
import pytest

from leptonai import run
from leptonai.cli.__main__ import root
from leptonai.cli.__main__ import run as run_command
from leptonai.testing.platform import RunningPlatform

# Those that change the platform itself are tested where their effects are.
ELSEWHERE = {"up", "down"}
NEVER_EMPTY = {"token list", "node list", "storage list", "template list"}
ANSWERS = {  # what each answers with -o json, once there is one of everything
    "status": dict,
    "doctor": list,
    "token show": dict,
    "token list": list,
    "token create ann --expires 90d": dict,
    "workspace current": dict,
    "node list": list,
    "node shapes": list,
    "node reservations": list,
    "node reserve -n again --for 1h": dict,
    "ingress list": list,
    "ingress get site": dict,
    "ingress share site files:1": dict,
    "template list": list,
    "template get torchrun": dict,
    "template render torchrun run=x": dict,
    "workspace set --feature secure-endpoint-defaults --no-feature new-deployment-api": dict,
    "quota list": list,
    "storage list": list,
    "storage ls": list,
    "storage du": dict,
    "storage permission": list,
    "storage source list": list,
    "storage source get maps": dict,
    "kv list": list,
    "kv keys results": list,
    "queue list": list,
    "queue length work": dict,
    "object list": list,
    "object link kept": dict,
    "secret list": list,
    "job list": list,
    "job get hello": dict,
    "job log hello": list,
    "job events hello": list,
    "job why hello": dict,
    "job stop hello": list,
    "endpoint list": list,
    "endpoint get files": dict,
    "endpoint log files": list,
    "endpoint events files": list,
    "endpoint why files": dict,
    "pod list": list,
    "pod get desk": dict,
    "pod events desk": list,
    "pod why desk": dict,
    "raycluster list": list,
    "raycluster get tune": dict,
    "raycluster events tune": list,
    "raycluster why tune": dict,
    "raycluster resize tune 2": dict,
    "dataset list": list,
    "dataset get data": dict,
    "dataset versions data": list,
    "dataset preview data": list,
    "dataset check data": dict,
    "dataset diff data@1 data": dict,
    "dataset alias data best": dict,
    "model alias net best": dict,
    "dataset cache": dict,
    "run list": list,
    "run get cats": dict,
    "run compare cats": list,
    "run plot cats": list,
    "photon list": list,
    "model list": list,
    "model get net": dict,
}
MISTAKES = [  # each fails, and says so in two lines
    "job get nope",
    "job log nope",
    "job log -f nope",
    "job events nope",
    "job why nope",
    "job stop nope",
    "job start nope",
    "job start hello",
    "job remove nope",
    "job create -n Wrong_Name -- true",
    "job create -n x -rs gpu.nothing -- true",
    "job create -n x --container-image '' --workdir /nonexistent -- true",
    "endpoint get nope",
    "endpoint log nope",
    "endpoint events nope",
    "endpoint why nope",
    "endpoint update nope --replicas 1",
    "endpoint restart nope",
    "endpoint update files --replicas 1 --canary 10%",
    "endpoint update files -e A=1 --canary 50%,10%",
    "endpoint rollout status nope",
    "endpoint rollout status files",
    "endpoint rollout promote files",
    "endpoint rollout rollback nope",
    "endpoint remove nope",
    "pod get nope",
    "pod get files",
    "pod stop nope",
    "pod start nope",
    "pod remove nope --yes",
    "pod remove files --yes",
    "pod exec nope -- true",
    "pod exec -t desk -- true",
    "pod ssh nope",
    "pod ssh-config nope",
    "pod proxy nope",
    "pod forward desk 0",
    "pod forward desk 1:2:3",
    "pod sync /nonexistent desk",
    "pod sync . nope",
    "pod open nope",
    "pod create Wrong_Name",
    "pod create files",
    "pod create x --ssh-key /nonexistent",
    "pod create x -f /dev/null",
    "pod create x --ssh-listen example.org",
    "pod update nope --idle-stop 2h",
    "pod log nope",
    "pod why nope",
    "pod events nope",
    "raycluster create Wrong_Name",
    "raycluster create tune",
    "raycluster create x -f /dev/null",
    "raycluster create x -rs gpu.nothing",
    "raycluster get nope",
    "raycluster address nope",
    "raycluster resize nope 2",
    "raycluster resize tune gpu=2",
    "raycluster stop nope",
    "raycluster start nope",
    "raycluster remove nope",
    "raycluster events nope",
    "raycluster why nope",
    "raycluster log nope",
    "endpoint create -n x --model nope",
    "endpoint create -n x --photon nope",
    "endpoint create -n x --photon net",
    "photon create -n x -m nope.py",
    "photon push -n nope",
    "photon run -n nope",
    "photon remove nope",
    "photon remove net",
    "endpoint create -n files --command true",
    "node reserve -n Wrong_Name",
    "node reserve -n x --nodes 9",
    "node approve nope",
    "node reject nope",
    "node unreserve nope",
    "ingress create nohost",
    "ingress create site.example.org files:1",
    "ingress create x.example.org nope:1",
    "ingress get nope",
    "ingress share nope files:1",
    "ingress remove nope",
    "template get nope",
    "template render torchrun",
    "template render torchrun runs=x",
    "template start nope -n x",
    "template start torchrun -n x",
    "template start torchrun run=x -n Wrong_Name",
    "template create -n x /dev/null",
    "template remove nope",
    "template remove torchrun",
    "quota set --user a,b --gpus 1",
    "quota remove --user nope",
    "storage ls nope",
    "storage download nope",
    "storage upload /dev/null nope:x",
    "storage mkdir ../x",
    "storage mv nope x",
    "storage rm nope",
    "storage add x --path relative",
    "storage remove default",
    "storage permit default relative --everybody",
    "storage forbid default /nope",
    "token create a,b",
    "token create ../x",
    "token create gateway",
    "token remove nope",
    "storage upload /dev/null ../../x",
    "storage download ../../etc/passwd",
    "storage ls a/../../b",
    "storage source get nope",
    "storage source add pets --bucket pets --provider aws --region x --access-key n --secret-key n",
    "storage source permit nope --everybody",
    "storage source remove nope",
    "kv create Wrong_Name",
    "kv create results",
    "kv keys nope",
    "kv get results nope",
    "kv get nope x",
    "kv put nope x y",
    "kv put results .. y",
    "kv put results big --file /dev/zero",
    "kv delete nope x",
    "kv remove nope",
    "queue create Wrong_Name",
    "queue length nope",
    "queue send nope hello",
    "queue receive nope",
    "queue receive idle",
    "queue remove nope",
    "object get nope",
    "object put /nonexistent",
    "object put /dev/null a/../b",
    "object link nope",
    "object remove a//b",
    "secret remove nope",
    "secret create hello",
    "dataset get nope",
    "dataset get data@7",
    "dataset download nope there",
    "dataset remove nope",
    "dataset versions nope",
    "dataset preview nope",
    "dataset check nope",
    "dataset check /nonexistent",
    "dataset check data --fail-on nulls",
    "dataset check data --plot data.txt",
    "dataset diff data nope",
    "dataset alias data Best",
    "dataset alias --drop data worst",
    "model alias net Best",
    "model alias --drop net worst",
    "dataset create -n x",
    "dataset create -n x --type sounds /",
    "dataset create -n x ftp://host/file",
    "dataset create -n x /nonexistent",
    "dataset transform nope --pipeline /nonexistent --name x",
    "pipeline fit /nonexistent --dataset data -o /tmp/x",
    "pipeline show /nonexistent",
    "train nowhere.py",
    "train no/such/module",
    "run get nope",
    "run compare nope",
    "run plot nope",
    "run plot cats -k nothing",
    "run remove nope",
    "run upload /nonexistent",
    "run list --local /nonexistent",
    "run list --param lr",
    "model get nope",
    "model download nope there",
    "model remove nope",
    "model create -n x /nonexistent",
    "simulate autoscale --rate /dev/null --service 1 --cold-start 60",
    "simulate energy --table /dev/null --deadline 3600",
    "simulate pack --nodes /dev/null --pods /dev/null",
    "simulate queue --jobs /dev/null --gpus 8",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("commands") / "home"


@pytest.fixture(scope="module")
def platform(home):
    with RunningPlatform(home) as running:
        yield running


@pytest.fixture(scope="module")
def empty(platform) -> dict[str, str]:
    """What the lists of a new platform print."""
    lists = [words for words in ANSWERS if words.endswith(" list") and words not in NEVER_EMPTY]
    return {words: platform.cli(*words.split(), "-o", "json").stdout for words in lists}


@pytest.fixture(scope="module")
def filled(platform, empty, tmp_path_factory):
    """One of everything."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "numbers.txt").write_text("1 2 3")
    platform.cli("job", "create", "-n", "hello", "--wait", "--", "echo", "hi")
    server = "echo serving; exec python3 -m http.server --bind 127.0.0.1 $PORT"
    platform.cli("endpoint", "create", "-n", "files", "--command", server, "--wait")
    platform.cli("pod", "create", "desk", "--wait")
    platform.cli("dataset", "create", "-n", "data", str(folder))
    platform.cli("model", "create", "-n", "net", str(folder))
    photon = folder / "photon.py"
    photon.write_text("from leptonai.photon import Photon\nclass Hello(Photon): ...\n")
    platform.cli("photon", "create", "-n", "hello", "-m", str(photon))
    platform.cli("photon", "push", "-n", "hello")
    platform.cli("node", "reserve", "-n", "sprint", "--for", "1h")
    platform.cli("ingress", "create", "site.example.org", "files:1", "-n", "site")
    platform.cli("raycluster", "create", "tune")
    platform.cli("quota", "set", "--user", "ann", "--gpus", "1")
    platform.cli("storage", "upload", str(photon), "kept/")
    platform.cli("storage", "permit", "default", "/", "--everybody")
    bucket = ("--bucket", "maps", "--provider", "gcs", "--gcs-project", "atlas")
    platform.cli("storage", "source", "add", "maps", *bucket)
    platform.cli("kv", "create", "results")
    platform.cli("kv", "put", "results", "job-7", "done")
    for queue in ("work", "idle"):
        platform.cli("queue", "create", queue)
    platform.cli("queue", "send", "work", "resize 17.jpg")
    platform.cli("object", "put", str(photon), "kept")
    with platform.client() as client, run.start("cats", client=client, directory=folder / "runs"):
        run.log(loss=0.5)
    platform.cli("secret", "create", "KEY", stdin="value")
    return platform


@pytest.fixture
def lepton(capfd, monkeypatch):
    """Runs one command line, in this process: there are hundreds. Answers (exit code, out, err)."""
    for name in os.environ:
        if name.startswith("LEPTON_"):
            monkeypatch.delenv(name)

    def call(home, line: str) -> tuple[int, str, str]:
        monkeypatch.setenv("LEPTON_HOME", str(home))
        monkeypatch.setattr("sys.stdin", io.StringIO())
        code = run_command(shlex.split(line))
        return code, *capfd.readouterr()

    return call


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[str]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append(" ".join((*path, name)))
    return found


def test_these_lists_name_every_command():
    named = {*ANSWERS, *MISTAKES}
    missing = [
        words
        for words in commands(root)
        if words not in ELSEWHERE and not any(f"{line} ".startswith(f"{words} ") for line in named)
    ]
    assert missing == []


def test_the_lists_of_a_new_platform_are_empty_json(empty):
    assert {words: json.loads(out) for words, out in empty.items()} == {
        words: [] for words in empty
    }


def test_with_output_json_stdout_is_json_alone(filled, home, lepton):
    for words, kind in ANSWERS.items():
        code, out, err = lepton(home, f"{words} -o json")
        assert (code, err) == (0, ""), words
        answer = json.loads(out)
        assert type(answer) is kind, words
        assert answer, words


def test_a_table_is_for_people_and_has_no_colours_off_a_terminal(filled, home, lepton):
    for words in ANSWERS:
        code, out, err = lepton(home, words)
        assert code == 0, words
        assert "\x1b" not in out + err, words


def test_every_mistake_is_told_in_two_lines_and_with_an_exit_code(filled, home, lepton):
    for line in MISTAKES:
        code, out, err = lepton(home, line)
        assert (code, out) == (1, ""), line
        error, hint = err.splitlines()
        assert error.startswith("error: "), line
        assert hint.startswith("hint: "), line


def test_without_a_platform_every_command_says_how_to_start_one(tmp_path, lepton):
    for words in ANSWERS:
        if words in ("doctor", "dataset cache"):
            continue
        code, out, err = lepton(tmp_path / "nowhere", words)
        assert (code, out) == (1, ""), words
        error, hint = err.splitlines()
        assert error.startswith("error: "), words
        assert "leptonai up" in hint, words
