"""Of the tests that drive the published client."""

import os
import shutil

import pytest
from lep_client import Lep

from leptonai.testing.platform import RunningPlatform


@pytest.fixture(scope="module")
def lep_platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("lep") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def lep_program() -> str:
    program = os.environ.get("LEPTON_LEP") or shutil.which("lep")
    if not program:
        pytest.skip("the published client is not installed: `make test-lep` installs it")
    return program


@pytest.fixture(scope="module")
def lep(lep_program, lep_platform, tmp_path_factory) -> Lep:
    return Lep(lep_program, lep_platform, tmp_path_factory.mktemp("lep") / "cache")


@pytest.fixture(scope="module")
def leptonai(lep_platform):
    """Our own command, as the platform's admin."""
    return lambda *arguments: lep_platform.cli(*arguments).stdout
