"""How ssh is told of a pod, and whose key it is."""

import shlex
import sys
from pathlib import Path

import pytest

from leptonai.cli.pod_keys import default_key_file, read_key
from leptonai.cli.pod_ssh import SshWay
from leptonai.client.connection import Connection
from leptonai.errors import InvalidRequest, NotFound

HOST_KEY = "ssh-ed25519 AAAA"
CONNECTION = Connection(url="http://127.0.0.1:1/api/v2/workspaces/team", token="secret-token")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "a 100% home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("LEPTON_WORKSPACE_URL", "LEPTON_WORKSPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LEPTON_HOME", "/the home")
    return home


def test_its_configuration_leads_through_the_platform_and_holds_no_token(home: Path) -> None:
    way = SshWay.to("work", CONNECTION, user="ann", host_key=HOST_KEY, identity=home / "id")
    config = way.config()
    assert config.splitlines()[0] == "Host work.team.lepton"
    assert "  User ann" in config
    command = (
        f"env 'LEPTON_HOME=/the home' {shlex.quote(sys.executable)} -m leptonai.cli pod proxy work"
    )
    assert f"  ProxyCommand {command}" in config
    known = f"{home}/.cache/leptonai/pods/work.team.lepton.known_hosts"
    assert f'  UserKnownHostsFile "{known}"'.replace("%", "%%") in config
    assert "StrictHostKeyChecking yes" in config
    assert "secret" not in config
    assert Path(known).read_text() == f"work.team.lepton {HOST_KEY}\n"
    assert way.arguments[0] == "ssh"


def test_a_public_key_is_found_and_a_private_one_refused(home: Path) -> None:
    assert default_key_file() is None
    folder = home / ".ssh"
    folder.mkdir()
    (folder / "id_rsa.pub").write_text("ssh-rsa AAAA me\n")
    assert default_key_file() == folder / "id_rsa.pub"
    assert read_key(folder / "id_rsa.pub") == "ssh-rsa AAAA me"
    (folder / "id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    with pytest.raises(InvalidRequest, match="private"):
        read_key(folder / "id_rsa")
    (folder / "two").write_text("ssh-rsa AAAA\nssh-rsa BBBB\n")
    for name, error in (("two", InvalidRequest), ("none", NotFound)):
        with pytest.raises(error):
            read_key(folder / name)
