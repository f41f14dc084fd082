"""The command `leptonai` against a workspace behind a real socket."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import click
import pytest

import leptonai
from leptonai.cli.__main__ import root, run
from leptonai.cli.output import age, columns_that_fit, span, table
from leptonai.testing.workspace_server import TOKEN, WorkspaceServer


@pytest.fixture
def server():
    with WorkspaceServer() as running:
        yield running


@pytest.fixture
def lepton(server, monkeypatch, capfd, tmp_path):
    """Runs one command line; answers (exit code, stdout, stderr)."""
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LEPTON_WORKSPACE_URL", server.url)
    monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", TOKEN)

    def call(*arguments):
        code = run(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def environment(server, home="/nonexistent", **more):
    return {
        **os.environ,
        "LEPTON_HOME": str(home),
        "LEPTON_WORKSPACE_URL": server.url,
        "LEPTON_WORKSPACE_TOKEN": TOKEN,
        **more,
    }


PLATFORM_COMMANDS = ("up", "down", "status", "doctor")


def words(text):
    return text.split()


def commands(group=root, path=()):
    """Every command there is, with the words that call it."""
    context = click.Context(root)
    yield path
    for name in group.list_commands(context):
        if name in PLATFORM_COMMANDS and not find_spec("leptonai.cli.platform"):
            continue
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


# --- help and errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*commands()], ids=" ".join)
def test_help_of_every_command_has_an_example_and_needs_no_platform(path, capfd, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", "/nonexistent")
    assert run([*path, "--help"]) == 0
    out, err = capfd.readouterr()
    assert re.search(r"^ *Examples?:\s+leptonai ", out, re.MULTILINE), out
    assert err == ""


def test_an_error_is_one_line_of_what_happened_and_one_of_what_to_do(lepton):
    assert lepton("job", "get", "nope") == (
        1,
        "",
        "error: no job has the name or the id 'nope'\nhint: see `leptonai job list --all`\n",
    )


def test_a_usage_error_is_told_in_the_same_way_with_exit_code_2(lepton):
    code, out, err = lepton("job", "list", "--nope")
    assert (code, out) == (2, "")
    assert err == "error: No such option '--nope'.\nhint: see `leptonai job list --help`\n"


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(lepton):
    assert lepton("jobs", "list")[2].splitlines()[0] == (
        "error: No such command 'jobs'. Did you mean 'job'?"
    )
    assert lepton("--version") == (0, f"leptonai {leptonai.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["job", "create", "--", "true"], 1, "error: the job has no name"),
        (["job", "create", "-n", "x"], 1, "error: the job has no command"),
        (["job", "create", "-n", "Bad_Name", "--", "true"], 1, "hint: for example bad-name"),
        (["job", "create", "-n", "x", "--memory", "2", "--", "true"], 2, "has no unit"),
        (["job", "create", "-n", "x", "--cpu", "two", "--", "true"], 2, "not a number of CPU"),
        (["job", "create", "-n", "x", "--priority", "0", "--", "true"], 2, "not a priority"),
        (["job", "create", "-n", "x", "-e", "A", "--", "true"], 1, "error: --env A has no value"),
        (["job", "create", "-n", "x", "-e", "LEPTON_JOB_NAME=y", "--", "true"], 1, "set by the pl"),
        (["job", "create", "-n", "x", "--workdir", "/nope", "--", "true"], 1, "not a directory"),
        (["job", "create", "-n", "x", "--start-at", "soon", "--", "true"], 1, "is not a time"),
        (["job", "create", "-n", "x", "-f", "/nope", "true"], 2, "does not exist"),
        (["job", "create", "-n", "x", "--", "\udc80"], 1, "error: not valid UTF-8"),
        (["job", "get", ""], 1, "error: '' is not a name or an id"),
        (["endpoint", "create", "-n", "x"], 1, "error: the endpoint has nothing to run"),
        (["endpoint", "update", "x"], 2, "error: nothing to change"),
        (["endpoint", "update", "x", "-e", "A=1", "--canary", "150%"], 2, "percents like 10%"),
        (["endpoint", "update", "x", "-e", "A=1", "--shadow", "some"], 2, "not 'some'"),
        (["endpoint", "update", "x", "--canary", "9", "--shadow", "9"], 2, "choose one of canary"),
        (["endpoint", "update", "x", "--step-seconds", "9"], 2, "need a --strategy"),
        (["secret", "create", "a b", "--value", "x"], 1, "the secret's name 'a b' is not allowed"),
        (["dataset", "create", "-n", "x", "/nope"], 1, "error: /nope does not exist"),
    ],
)
def test_bad_input_is_explained_before_anything_is_done(lepton, server, arguments, code, message):
    found, out, err = lepton(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 2
    assert server.jobs == server.endpoints == server.secrets == {}


def test_a_file_that_is_no_job_is_explained(lepton, tmp_path):
    file = tmp_path / "spec.json"
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"completions": "two"}', "spec.completions"),
    ):
        file.write_text(text)
        code, _, err = lepton("job", "create", "-n", "x", "-f", str(file), "--", "true")
        assert (code, message in err) == (1, True)


def test_of_two_that_one_name_may_mean_it_says_which(lepton, monkeypatch, tmp_path):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "a.csv").write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    told = "pets is what lies in this directory; the registered one: pets@latest\n"
    code, _, err = lepton("dataset", "check", "pets")
    assert (code, told in err) == (0, True)
    code, _, err = lepton("dataset", "check", "./pets")
    assert (code, told in err) == (0, False)


def test_without_a_platform_the_hint_says_how_to_start_one(lepton, monkeypatch):
    monkeypatch.delenv("LEPTON_WORKSPACE_URL")
    assert lepton("job", "list") == (
        1,
        "",
        f"error: no Lepton platform is running in {os.environ['LEPTON_HOME']}\n"
        "hint: start one with `leptonai up -d`\n",
    )


def test_a_platform_whose_process_is_gone_is_not_waited_for(lepton, monkeypatch, tmp_path):
    for name in ("LEPTON_WORKSPACE_URL", "LEPTON_WORKSPACE_TOKEN"):
        monkeypatch.delenv(name)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run_directory = tmp_path / "home" / "run"
    run_directory.mkdir(parents=True)
    facts = {"url": "http://127.0.0.1:9", "workspace": "default", "pid": ended.pid}
    (run_directory / "platform.json").write_text(json.dumps(facts))
    (tmp_path / "home" / "token").write_text("t")
    assert lepton("job", "list") == (
        1,
        "",
        "error: no Lepton platform is running at http://127.0.0.1:9: its process is gone\n"
        "hint: start one with `leptonai up -d`\n",
    )


# --- jobs ----------------------------------------------------------------------------------------


def test_a_job_is_created_as_typed_and_its_id_printed(lepton, server):
    code, out, err = lepton(
        "job", "create", "-n", "hello", "--", "echo", "-n", "--", "a  b", "$HOME"
    )
    (job_id,) = server.jobs
    assert (code, out, err) == (0, f"{job_id}\n", f"next: leptonai job log -f {job_id}\n")
    assert server.jobs[job_id]["spec"] == {
        "container": {"command": ["echo", "-n", "--", "a  b", "$HOME"]}
    }


def test_a_file_that_a_command_names_and_nobody_ships_is_told(lepton, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    words_after = ("--", "python", "train.py", "x" * 5_000 + ".y")
    note = "note: train.py stays here; --workdir . ships this directory"
    assert lepton("job", "create", "-n", "a", *words_after)[2].splitlines()[0] == note
    assert note not in lepton("job", "create", "-n", "b", "--workdir", ".", *words_after)[2]


def test_the_flags_of_a_job_arrive_on_the_wire(lepton, server):
    code, out, _ = lepton(
        *words("job create -n ddp --num-workers 2 --cpu 1.5 --memory 2GiB --priority high"),
        *words("--gpu 2 --gpu-type H100 -rs gpu.h100 -e A=1 -e B=x=y -s KEY -s TOKEN=OTHER"),
        *words("--max-failure-retry 1 --max-job-failure-retry 2 --ttl 1h --label team=ml"),
        *words("--start-at 1970-01-01T00:01+00:00 --deadline 1970-01-01T01:00+00:00"),
        *words("--container-image img --include-workspace-token -o json torchrun train.py"),
    )
    assert code == 0
    made = json.loads(out)
    assert made["metadata"]["labels"] == {"team": "ml"}
    assert made["spec"] == {
        "container": {"image": "img", "command": ["torchrun", "train.py"]},
        "resource_shape": "gpu.h100",
        "cpu": 1.5,
        "memory": 2048,
        "accelerator_type": "H100",
        "accelerator_num": 2.0,
        "completions": 2,
        "parallelism": 2,
        "intra_job_communication": True,
        "max_failure_retry": 1,
        "max_job_failure_retry": 2,
        "envs": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "x=y"},
            {"name": "KEY", "value_from": {"secret_name_ref": "KEY"}},
            {"name": "TOKEN", "value_from": {"secret_name_ref": "OTHER"}},
        ],
        "ttl_seconds_after_finished": 3600,
        "queue_config": {"priority_class": "high-8000"},
        "time_schedule": {"start_at": 60},
        "deadline": {"at": 3600},
        "include_workspace_token": True,
    }


def test_a_job_that_shares_says_so_in_its_spec_and_its_labels(lepton, server):
    options = "--preemptible --priority low --project vision --num-workers 4 --min-workers 2"
    _, out, _ = lepton(*words(f"job create -n x -o json {options} -- true"))
    made = json.loads(out)
    assert made["metadata"]["labels"] == {"project": "vision"}
    assert made["spec"] == {
        "container": {"command": ["true"]},
        "completions": 4,
        "parallelism": 4,
        "intra_job_communication": True,
        "min_workers": 2,
        "queue_config": {"priority_class": "low-2000", "can_be_preempted": True},
    }


def test_quotas_are_set_listed_and_removed_for_users_and_projects(lepton, server):
    assert lepton(*words("quota list"))[2] == "no quotas: everybody may use what is free\n"
    assert lepton(*words("quota set --user ann --gpus 4 --weight 2"))[0] == 0
    assert lepton(*words("quota set --project vision --cpu 1.5 --no-borrow"))[0] == 0
    assert lepton(*words("quota list"))[1].split("\n") == [
        "OF       NAME    GPUS    CPUS      BORROWS  WEIGHT",
        "user     ann     0 of 4  0         yes      2",
        "project  vision  0       0 of 1.5  no       1",
        "",
    ]
    removed = lepton(*words("quota remove --project vision"))[1]
    assert removed == "removed the quota of project vision\n"
    assert lepton(*words("quota set --user a --project b"))[0] == 2
    assert [*server.quotas] == [("users", "ann")]


def test_a_job_from_a_file_is_overridden_by_flags_and_may_be_what_get_printed(
    lepton, server, tmp_path
):
    lepton("job", "create", "-n", "first", "--cpu", "1", "-e", "A=1", "--", "true")
    _, out, _ = lepton("job", "get", "first", "-o", "json")
    file = tmp_path / "job.json"
    file.write_text(out)
    code, out, _ = lepton(
        *words("job create -n second --cpu 2 -e A=2 -e B=3 -o json -f"), str(file)
    )
    assert code == 0
    made = json.loads(out)
    assert made["metadata"]["name"] == "second"
    assert made["spec"] == {
        "container": {"command": ["true"]},
        "cpu": 2.0,
        "envs": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
    }


def test_a_fine_tuning_needs_no_command(lepton, server, tmp_path):
    file = tmp_path / "tune.json"
    file.write_text('{"trainer": {"train_config": {"model_uri": "tiny"}}}')
    code, out, _ = lepton(*words("job create -n tune -o json -f"), str(file))
    assert (code, json.loads(out)["spec"]["trainer"]["train_config"]) == (0, {"model_uri": "tiny"})


def test_waiting_for_a_job_fails_if_the_job_fails(lepton, server):
    def finish(state):
        while not any(job["status"]["state"] == "Queueing" for job in server.jobs.values()):
            time.sleep(0.01)
        for job in server.jobs.values():
            job["status"] |= {"state": state, "message": "exit code 3"}

    for state, code in (("Completed", 0), ("Failed", 1)):
        server.jobs.clear()
        thread = threading.Thread(target=finish, args=(state,))
        thread.start()
        found, out, err = lepton("job", "create", "-n", "x", "--wait", "-o", "json", "--", "true")
        thread.join()
        assert found == code
        assert json.loads(out)["status"]["state"] == state
        assert ("error: x-" in err) is (code == 1)


def test_the_list_of_jobs_is_a_table_or_json_or_says_how_to_begin(lepton, server):
    assert lepton("job", "list") == (
        0,
        "",
        "no jobs yet; create one: leptonai job create -n hello -- echo hi\n",
    )
    assert lepton("job", "list", "-o", "json") == (0, "[]\n", "")
    first = server.add_job("first", "Running", active=1, ready=1)
    second = server.add_job("second", "Failed", message="exit code 3")
    code, out, err = lepton("job", "list")
    assert (code, err) == (0, "")
    assert [ageless(line) for line in out.splitlines()] == [
        ["ID", "STATE", "WORKERS", "RAN", "MESSAGE"],
        [first, "Running", "1/1"],
        [second, "Failed", "0/1", "exit", "code", "3"],
    ]
    assert "\x1b" not in out
    listed = json.loads(lepton("job", "list", "--state", "fail", "-o", "json")[1])
    assert [job["metadata"]["id"] for job in listed] == [second]
    assert lepton("job", "list", "-q", "nope") == (0, "", "no jobs match\n")


def ageless(row: str) -> list[str]:
    """Its words without the age, which comes fourth and grows."""
    words = row.split()
    return words[:3] + words[4:]


@pytest.mark.parametrize(
    "flags", [("--tail", "1"), ("-t",), ("--grep", "a line"), ("--since", "1h")]
)
def test_the_clock_of_who_reads_a_log_leaves_no_line_out(lepton, server, flags):
    job_id = server.add_job("ahead", "Completed")
    server.add_replica(job_id, f"{job_id}-0-abcde", b"a line\n")
    server.history = [(time.time_ns() + 86_400 * 10**9, "a line")]  # by the platform's own clock
    assert "a line" in lepton("job", "log", "ahead", *flags)[1]


def test_a_log_is_printed_with_the_numbers_of_several_workers(lepton, server):
    job_id = server.add_job("ddp", "Completed", spec={"completions": 2})
    for index in (0, 1):
        server.add_replica(job_id, f"{job_id}-{index}-old00", b"an earlier try\n")
        server.add_replica(job_id, f"{job_id}-{index}-abcde", f"one {index}\ntwo\n".encode())
    assert lepton("job", "log", "ddp") == (0, "[0] one 0\n[0] two\n[1] one 1\n[1] two\n", "")
    assert lepton("job", "log", "ddp", "--worker", "1") == (0, "one 1\ntwo\n", "")
    assert lepton("job", "log", "ddp", "--replica", f"{job_id}-0-old00")[1] == "an earlier try\n"
    code, _, err = lepton("job", "log", "ddp", "--replica", "nobody")
    assert (code, err.splitlines()[0]) == (1, f"error: job {job_id} has no replica 'nobody'")
    assert f"{job_id}-0-old00" in err.splitlines()[1]
    assert lepton("job", "log", "ddp", "--worker", "2")[2] == (
        f"error: job {job_id} has no worker 2\nhint: its workers are 0 to 1\n"
    )
    code, out, err = lepton("job", "log", "-f", "ddp")
    assert (code, sorted(out.splitlines()), err) == (
        0,
        ["[0] one 0", "[0] two", "[1] one 1", "[1] two"],
        "",
    )
    assert json.loads(lepton("job", "log", "ddp", "-w", "0", "-o", "json")[1])[0] == {
        "worker": 0,
        "replica": f"{job_id}-0-abcde",
        "line": "one 0",
    }


def test_following_says_why_a_job_waits_and_goes_on_through_its_tries(lepton, server):
    job_id = server.add_job("slow", "Queueing")
    server.why["because"] = "needs 8 GPUs; there are 0"

    def go_on():
        while not any("/why" in seen for seen in server.seen):
            time.sleep(0.01)
        server.jobs[job_id]["status"]["state"] = "Running"
        server.add_replica(job_id, f"{job_id}-0-aaaaa", b"try 1\n")
        while not any("aaaaa/log" in seen for seen in server.seen):
            time.sleep(0.01)
        server.add_replica(job_id, f"{job_id}-0-bbbbb", b"try 2\n")
        server.jobs[job_id]["status"]["state"] = "Completed"

    thread = threading.Thread(target=go_on)
    thread.start()
    found = lepton("job", "log", "-f", "slow")
    thread.join()
    assert found == (0, "try 1\ntry 2\n", f"{job_id} is Queueing: needs 8 GPUs; there are 0\n")


def test_jobs_are_stopped_started_and_removed_by_name(lepton, server):
    job_id = server.add_job("hello")
    assert lepton("job", "stop", "hello") == (0, f"stopping {job_id}\n", "")
    assert lepton("job", "stop", "hello") == (0, f"{job_id} is Stopped: nothing to do\n", "")
    assert lepton("job", "start", job_id) == (0, f"starting {job_id}\n", "")
    assert json.loads(lepton("job", "remove", "hello", "-o", "json")[1]) == [
        {"id": job_id, "state": "Queueing", "action": "removed"}
    ]
    assert server.jobs == {}


def test_what_happened_to_a_job_and_why_it_waits_are_shown(lepton, server):
    job_id = server.add_job("hello", "Queueing", spec={"cpu": 2.0, "memory": 2048})
    server.why |= {"because": "needs 2 GPUs", "data": {"nodes": ["a", "b"], "missing": 2}}
    server.events[job_id] = [
        {
            "type": "Normal",
            "reason": "Queued",
            "count": 2,
            "last_observed_time": "2020-01-01T00:00:00Z",
            "message": "waits\x1b[31m",
        }
    ]
    assert lepton("job", "why", "hello") == (
        0,
        "Queueing: needs 2 GPUs\n  nodes: a, b\n  missing: 2\n",
        "",
    )
    events = lepton("job", "events", "hello")[1]
    assert events.splitlines()[1].split()[1:] == ["Normal", "Queued", "waits", "[31m", "(x2)"]
    shown = lepton("job", "get", "hello")[1]
    assert f"id                    {job_id}\n" not in shown  # only as wide as its facts
    assert f"id       {job_id}\n" in shown
    assert "each     2 CPU, 2GiB\n" in shown


# --- the rest ------------------------------------------------------------------------------------


def add_models(server, *versions):
    server.artifacts["models"] += [
        {
            "metadata": {"name": "m", "version": version, "created_at": 1},
            "spec": {"digest": "sha256:ab", "size_bytes": 1, "format": "files"},
        }
        for version in versions
    ]


def test_an_endpoint_is_created_shown_updated_and_removed(lepton, server):
    add_models(server, 1, 2)
    code, out, err = lepton(
        *words("endpoint create -n app --port 8000 --replicas 2 --tokens t -e A=1"),
        *words("--health-path /healthz --command"),
        "exec app $PORT",
    )
    assert (code, out) == (0, "http://127.0.0.1:1/e/d/app/\n")
    assert err == "next: leptonai endpoint why app\n"
    assert server.endpoints["app"]["spec"] == {
        "container": {
            "command": ["/bin/sh", "-c", "exec app $PORT"],
            "ports": [{"container_port": 8000}],
        },
        "resource_requirement": {"min_replicas": 2, "max_replicas": 2},
        "api_tokens": [{"value": "t"}],
        "envs": [{"name": "A", "value": "1"}],
        "health": {"readiness": {"http": {"path": "/healthz"}}},
    }
    assert (
        lepton("endpoint", "update", "app", "--model", "m@2", "-e", "B=2", "--replicas", "3")[0]
        == 0
    )
    spec = server.endpoints["app"]["spec"]
    assert spec["model"] == "m@2"
    assert spec["envs"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert spec["resource_requirement"] == {"min_replicas": 3, "max_replicas": 3}
    rows = lepton("endpoint", "list")[1].splitlines()
    assert ageless(rows[1]) == ["app", "Starting", "0/3", "http://127.0.0.1:1/e/d/app/"]
    gateway = ("--allow-address", "10.0.0.0/8", "--domain", "a.example.org", "--rate-limit", "60")
    assert lepton("endpoint", "update", "app", *gateway)[0] == 0
    assert server.endpoints["app"]["spec"]["auth_config"] == {"ip_allowlist": ["10.0.0.0/8"]}
    shown = lepton("endpoint", "get", "app")[1]
    assert "access   1 token of its own, from 10.0.0.0/8 alone\n" in shown
    assert "domains  a.example.org\n" in shown
    assert "limits   60 requests a minute for each token\n" in shown
    assert lepton("endpoint", "update", "app", "--allow-address", "none")[0] == 0
    assert "access   1 token of its own\n" in lepton("endpoint", "get", "app")[1]
    assert lepton("endpoint", "restart", "app")[1] == "restarting app\n"
    assert lepton("endpoint", "remove", "app")[:2] == (0, "removed app\n")


def test_an_endpoint_without_tokens_is_open_to_those_of_the_workspace_only(lepton, server):
    add_models(server, 1)
    lepton("endpoint", "create", "-n", "mine", "--model", "m")
    assert server.endpoints["mine"]["spec"]["model"] == "m@1"  # what it means now
    lepton("endpoint", "create", "-n", "open", "--model", "m", "--public")
    assert server.endpoints["mine"]["spec"]["api_tokens"] == [
        {"value_from": {"token_name_ref": "WORKSPACE_TOKEN"}}
    ]
    assert server.endpoints["open"]["spec"]["allow_unauthenticated_access"] is True


def test_an_endpoint_says_which_engine_serves_its_model_and_is_ready_when_that_is(lepton, server):
    add_models(server, 1)
    asked = ("endpoint", "create", "-n", "chat", "--model", "m")
    assert lepton(*asked, "--engine", "vllm", "--engine-option=--max-model-len=9")[0] == 0
    spec = server.endpoints["chat"]["spec"]
    assert spec["envs"] == [
        {"name": "LEPTON_ENGINE", "value": "vllm"},
        {"name": "LEPTON_ENGINE_OPTIONS", "value": '["--max-model-len=9"]'},
    ]
    assert spec["health"]["readiness"]["http"]["path"] == "/health"
    for wrong, error in (
        ((*asked, "--engine", "vllm", "--engine-option=--trust-remote-code"), "is not passed on"),
        ((*asked, "--engine-option=--max-model-len=9"), "is for vLLM and SGLang"),
        (("endpoint", "create", "-n", "e", "--engine", "vllm", "--command", "x"), "add --model"),
    ):
        code, _, err = lepton(*wrong)
        assert code == 1, wrong
        assert error in err


def test_a_training_finds_volumes_and_buckets_as_any_job_does(lepton):
    storage = ("--mount", "data:/mnt/data:ro", "--bucket", "pets:msc")
    _, trained, _ = lepton("train", *storage, "-o", "json", "my_package.train")
    _, ran, _ = lepton("job", "create", "-n", "ran", *storage, "-o", "json", "--", "true")
    found, expected = (json.loads(each)["spec"] for each in (trained, ran))
    for field in ("mounts", "storage_attachments"):
        assert found[field] == expected[field] != []


def test_a_model_that_is_a_pickle_is_refused_before_anything_is_sent(lepton, server, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "forest.pkl").write_bytes(b"\x80\x04N.")
    code, out, err = lepton("model", "create", "-n", "forest", str(tmp_path / "model"))
    assert (code, out) == (1, "")
    assert err.startswith("error: forest.pkl is, or holds, a pickle")
    assert "skops.io.dump" in err


def test_logs_of_several_replicas_of_an_endpoint_are_told_apart(lepton, server):
    add_models(server, 1)
    lepton("endpoint", "create", "-n", "app", "--model", "m")
    server.add_replica("app", "app-aaaaa", b"one\n")
    server.add_replica("app", "app-bbbbb", b"two\n")
    assert lepton("endpoint", "log", "app")[1] == "[aaaaa] one\n[bbbbb] two\n"
    assert lepton("endpoint", "log", "app", "--replica", "app-bbbbb")[1] == "two\n"
    assert sorted(lepton("endpoint", "log", "-f", "app")[1].splitlines()) == [
        "[aaaaa] one",
        "[bbbbb] two",
    ]


def test_what_keeps_ending_shows_what_it_wrote(lepton, server):
    server.why["because"] = "it keeps ending"
    server.endpoints["app"] = {"metadata": {"id": "app", "name": "app"}, "spec": {}, "status": None}
    server.add_replica("app", "app-aaaaa", b"no such model\n", state="Placed")
    assert lepton("endpoint", "log", "app") == (0, "no such model\n", "it keeps ending\n")
    job_id = server.add_job("again", "Running")
    server.add_replica(job_id, f"{job_id}-0-abcde", b"no such file\n", state="Placed")
    assert lepton("job", "log", "again") == (0, "no such file\n", "")


def test_a_secret_comes_from_a_file_a_pipe_or_with_a_warning_the_command_line(
    lepton, server, tmp_path
):
    (tmp_path / "value").write_text("from file\n")
    assert lepton("secret", "create", "A", "--value-file", str(tmp_path / "value"))[0] == 0
    assert (
        "warning: a value on the command line" in lepton("secret", "create", "B", "--value", "x")[2]
    )
    piped = subprocess.run(
        [sys.executable, "-m", "leptonai", "secret", "create", "C", "-o", "json"],
        input=b"piped\n\n",
        capture_output=True,
        env=environment(server),
    )
    assert (piped.returncode, json.loads(piped.stdout)) == (0, {"name": "C"})
    assert {name: item["value"] for name, item in server.secrets.items()} == {
        "A": "from file",
        "B": "x",
        "C": "piped\n",
    }
    assert lepton("secret", "list")[1].split() == ["NAME", "OWNER", "VISIBILITY", "A", "B", "C"]
    assert lepton("secret", "remove", "A", "B")[1] == "removed A\nremoved B\n"


def test_nodes_shapes_and_models_are_listed(lepton, server):
    assert lepton("node", "list")[1].splitlines()[1].split() == [
        *words("node-1 local Ready 0.5/2 512MiB/4GiB 0 cgroup-v2")
    ]
    assert lepton("node", "shapes")[1].splitlines()[1].split() == ["cpu.small", "1", "4GiB"]
    assert "no models yet" in lepton("model", "list")[2]
    server.artifacts["models"].append(
        {
            "metadata": {"name": "cnn", "version": 2, "created_at": 0},
            "spec": {
                "digest": "sha256:1",
                "size_bytes": 2_000_000,
                "format": "torch-cnn",
                "lineage": {"job": "train-x"},
                "attributes": {"accuracy": 0.98},
            },
        }
    )
    assert lepton("model", "list")[1].splitlines()[1].split()[:3] == [
        "cnn@2",
        "torch-cnn",
        "1.9MiB",
    ]
    shown = lepton("model", "get", "cnn@2")[1]
    assert "from job  train-x\n" in shown
    assert "accuracy  0.98\n" in shown


def test_the_token_and_the_workspace_are_printed_bare(lepton, server):
    assert lepton("token", "show") == (0, f"{TOKEN}\n", "")
    assert lepton("workspace", "current") == (0, "default\n", "")
    assert json.loads(lepton("workspace", "current", "-o", "json")[1]) == {
        "workspace": "default",
        "url": server.url,
    }


# --- terminals and signals -----------------------------------------------------------------------


def test_a_terminal_that_cannot_show_a_character_does_not_stop_the_command(server):
    job_id = server.add_job("log", "Completed")
    server.add_replica(job_id, f"{job_id}-0-abcde", "größe 🚀\n".encode())
    found = subprocess.run(
        [sys.executable, "-m", "leptonai.cli", "job", "log", "log"],
        capture_output=True,
        env=environment(server, PYTHONIOENCODING="latin-1"),
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, b"gr\xf6\xdfe ?\n", b"")


def test_a_home_is_found_where_file_names_are_ascii_and_refused_for_a_platform(server, tmp_path):
    home = tmp_path / "größe"
    (home / "run").mkdir(parents=True)
    (home / "token").write_text(TOKEN)
    url, _, workspace = server.url.partition("/api/v2/workspaces/")
    facts = {"url": url, "workspace": workspace, "token_file": str(home / "token")}
    (home / "run" / "platform.json").write_text(json.dumps(facts))
    names = {name: each for name, each in os.environ.items() if not name.startswith("LEPTON_")}
    env = names | {"LEPTON_HOME": str(home), "LC_ALL": "POSIX", "PYTHONUTF8": "0"}

    def call(*arguments):
        command = [sys.executable, "-m", "leptonai.cli", *arguments]
        return subprocess.run(command, capture_output=True, env=env, text=True)

    found = call("job", "list", "-o", "json")
    assert (found.returncode, found.stdout, found.stderr) == (0, "[]\n", "")
    refused = call("up")
    assert refused.returncode == 1
    assert "file names in ascii, as here, have not" in refused.stderr
    assert "LC_ALL=C.UTF-8" in refused.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(server):
    job_id = server.add_job("log", "Completed")
    server.add_replica(job_id, f"{job_id}-0-abcde", *[b"x" * 1000 + b"\n"] * 1000)
    process = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", "job", "log", "log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(server),
    )
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, b"")
    process.stderr.close()


def test_ctrl_c_ends_a_followed_log_quietly(server):
    job_id = server.add_job("log")
    end = threading.Event()

    def chunks():
        yield b"first\n"
        end.wait(60)

    server.add_replica(job_id, f"{job_id}-0-abcde")
    server.logs[f"{job_id}-0-abcde"] = chunks
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "leptonai.cli", "job", "log", "-f", "log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(server),
    )
    assert process.stdout.readline() == b"first\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    end.set()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_table_fits_its_terminal_and_only_a_terminal():
    rows = [("ID", "MESSAGE"), ("a", "x" * 100)]
    assert table(rows, width=40) == ["ID  MESSAGE", "a   " + "x" * 35 + "…"]
    assert table(rows, width=None) == ["ID  MESSAGE", "a   " + "x" * 100]


def test_of_a_wide_table_as_many_columns_are_shown_as_can_be_read():
    rows = [("ID", "MESSAGE", "A", "B"), ("a", "x" * 100, "1", "2")]
    assert [columns_that_fit(rows, width) for width in (1, 15, 16, 18, 19, 22, 80, None)] == [
        1, 1, 2, 2, 3, 4, 4, 4,
    ]  # fmt: skip


def test_ages_are_short():
    assert [span(s) for s in (0, 59, 60, 3_599, 3_600, 9_000, 172_800)] == [
        *words("0s 59s 1m 59m 1h 2h30m 2d")
    ]
    assert age(1_000, now_ms=181_000) == "3m"
    assert age(None) == ""
