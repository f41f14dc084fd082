"""Volumes, buckets and fine-tunings with the published client. `make test-lep` runs this."""

import re

import pytest
from lep_client import Lep

pytestmark = pytest.mark.lep

GROUP = ("-ng", "local")


def test_volumes_of_a_node_group(lep: Lep, tmp_path) -> None:
    shown = lep.answer("node", "storage", "get", *GROUP, "-n", "default")
    assert shown["storage"]["managed_by_lepton"] is True
    directory = tmp_path / "scratch"
    scratch = ("-t", "node-local", "-n", "scratch", "-p", str(directory))
    assert "Added" in lep("node", "storage", "add", *GROUP, *scratch)
    assert "already exists" in lep("node", "storage", "add", *GROUP, *scratch, code=1)
    writes = "cd /mnt/mine 2> /dev/null || cd mnt/mine; pwd > out"  # mounted, or else linked
    mount = ("--mount", "/in:/mnt/mine:node-local:scratch")
    lep("job", "create", "-n", "writes", "-rs", "cpu.small", "--command", writes, *mount)
    lep.until("Completed", "job", "list", "-n", "writes")
    assert (directory / "in" / "out").exists()
    absent = ("-t", "node-nfs", "-n", "absent", "-p", str(tmp_path / "nothing"))
    assert "there is no directory" in lep("node", "storage", "add", *GROUP, *absent, code=1)
    system = ("-t", "node-local", "-n", "system", "-p", "/")
    assert "of the system" in lep("node", "storage", "add", *GROUP, *system, code=1)
    assert "Deleted" in lep("node", "storage", "delete", *GROUP, "-n", "scratch", "-y")
    assert (directory / "in" / "out").exists(), "its files stay"


def test_rules_of_a_volume(lep: Lep) -> None:
    rules = ("node", "storage", "permission")
    lep(*rules, "add", *GROUP, "-n", "default", "--path", "/team", "-u", "ann")
    lep(*rules, "add", *GROUP, "-n", "default", "--path", "/home", "--by-user")
    listed = lep(*rules, *GROUP, "-n", "default")
    assert "/team" in listed
    assert "ann" in listed
    bad = (*rules, "add", *GROUP, "-n", "default", "--path", "/../x", "-u", "ann")
    assert "is no path of a volume" in lep(*bad, code=1)
    for path in ("/team", "/home"):
        lep(*rules, "delete", *GROUP, "-n", "default", "--path", path, "-y")
    assert "All workspace members" in lep(*rules, *GROUP, "-n", "default")


def test_a_bucket_from_its_offer_to_its_end(lep: Lep) -> None:
    lep("secret", "create", "-n", "KEY", "-v", "k", "-n", "SECRET", "-v", "s")
    where = ("--provider", "s3", "--bucket", "cats", "--region", "eu", "--endpoint", "http://s3")
    add = ("node", "storage", "add", *GROUP, "-t", "object-storage", "-n", "pets", *where)
    nothing = ("--access-key-secret", "NOPE", "--secret-key-secret", "NOPE")
    assert "there is no secret 'NOPE'" in lep(*add, *nothing, code=1)
    lep(*add, "--access-key-secret", "KEY", "--secret-key-secret", "SECRET", "-u", "ann")
    named = (*GROUP, "-n", "pets")
    allowed = lep.answer("node", "storage", "get", *named)["storage"]["spec"]["permissions"]
    assert allowed == {"allowed_users": ["ann"]}
    lep("node", "storage", "edit", *named, "--all-members")
    assert "permissions" not in lep.answer("node", "storage", "get", *named)["storage"]["spec"]
    assert "pets" in lep("node", "storage", "permission", *GROUP)
    lep("node", "storage", "delete", *named, "-y")
    assert "not found" in lep("node", "storage", "get", *named, code=1)


def test_a_fine_tuning_is_a_job_of_its_own_list(lep: Lep, tmp_path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "hello"}\n')
    ask = ("finetune", "create", "-n", "tune", "-rs", "cpu.small", "--train-dataset-uri", str(data))
    assert "there is no model 'nope'" in lep(*ask, "--model-uri", "nope", code=1)
    model = ("--model-uri", str(tmp_path))
    assert "Use one of" in lep(*ask, *model, "--technique", "magic", code=1)
    said = lep(*ask, *model, "--epochs", "2", *GROUP)
    id = re.search(r"tune-\w{4}", said)
    assert id, said
    lep.until("Failed", "finetune", "list", "-q", "tune")  # there is no model in that directory
    assert "tune" in lep("finetune", "list", "--status", "fail", "--node-group", "loc")
    assert "tune" not in lep("finetune", "list", "--created-by", "nobody")
    shown = lep.answer("finetune", "get", "-i", id[0])
    assert shown["spec"]["trainer"]["train_config"]["epochs"] == 2
    lep("finetune", "delete", "-i", id[0])
    assert "404" in lep("finetune", "get", "-i", id[0], code=1)
