"""A photon written, packed, registered, served and called."""

import httpx
import pytest

from leptonai.client import Client
from leptonai.testing.platform import RunningPlatform, eventually

SOURCE = """\
import os
from leptonai.photon import Batch, Photon

class Counter(Photon):
    requirement_dependency = ["msgspec"]  # is there: nothing is fetched
    deployment_template = {"env": {"START": "5"}}

    def init(self):
        self.count = int(os.environ["START"])

    @Photon.handler
    def add(self, x: int) -> int:
        self.count += x
        return self.count

    @Photon.handler(max_batch_size=8)
    def double(self, x: Batch[int]) -> Batch[int]:
        return [2 * each for each in x]

    @Photon.handler
    def stream(self):
        yield "a"
        yield "b"
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("photons") / "home") as running:
        yield running


def test_a_photon_goes_from_a_file_to_answers(platform, tmp_path, monkeypatch):
    file = tmp_path / "counter.py"
    file.write_text(SOURCE)
    made = platform.answer("photon", "run", "-n", "counter", "-m", f"{file}:Counter", "-o", "json")
    assert made["spec"]["model"] == "counter@1"
    (version,) = platform.answer("photon", "list", "-o", "json")
    assert version["spec"]["attributes"]["requirement_dependency"] == ["msgspec"]
    monkeypatch.setenv("LEPTON_HOME", str(platform.home.path))
    with platform.client() as client:
        client.endpoints.wait_ready("counter", timeout_s=120)
    with Client("default", "counter") as counter:
        assert (counter.add(x=2), counter.double(x=4), counter.stream()) == (7, 8, b"ab")
        with pytest.raises(httpx.HTTPStatusError, match=r"422 for .*: x: expected `int`"):
            counter.add(x="two")

    twice = platform.cli("photon", "run", "-n", "counter", check=False)
    assert "leptonai endpoint update counter --model counter@1" in twice.stderr
    platform.cli("endpoint", "create", "-n", "again", "--photon", "counter@1", "--wait")
    with Client("default", "again") as again:
        assert again.add(x=1) == 6
    platform.cli("endpoint", "remove", "counter", "again")
    eventually(lambda: platform.answer("endpoint", "list", "-o", "json") == [])
    platform.cli("photon", "remove", "counter")
    assert platform.answer("photon", "list", "-o", "json") == []
