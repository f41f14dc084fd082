"""Which PyTorch a machine gets, and where it comes from."""

import importlib.util
import sys
from pathlib import Path

import pytest

INSTALLER = Path(__file__).parents[2] / "tools" / "install.py"


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("install", INSTALLER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["install"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["install"]


def test_a_machine_with_a_gpu_gets_cuda_without_asking_what_that_fetches(install):
    def never_asked(torch):
        raise AssertionError(torch)

    assert install.choose_torch(has_gpu=True, fetches_cuda=never_asked) is install.CUDA


def test_a_machine_without_a_gpu_gets_the_first_way_that_fetches_no_cuda(install):
    def chosen(*heavy):
        return install.choose_torch(has_gpu=False, fetches_cuda=lambda torch: torch in heavy)

    assert chosen() is install.CPU
    assert chosen(install.CPU) is install.CPU_BY_BACKEND
    assert chosen(install.CPU, install.CPU_BY_BACKEND) is install.CPU_AT_ANY_PRICE


def test_one_place_may_have_blanks_in_its_name_and_several_are_parted_by_them(install, tmp_path):
    wheels = tmp_path / "my wheels"
    wheels.mkdir()
    assert install.places(f" {wheels}\n") == [str(wheels)]
    assert install.places("\n/one\n/two") == ["/one", "/two"]
    assert install.places(" ") == []


def test_a_failed_step_shows_what_its_command_said(install):
    command = [sys.executable, "-c", "import sys; print('out'); sys.exit('err')"]
    with pytest.raises(install.StepFailed) as failed:
        install.run(command)
    assert failed.value.output == "out\nerr\n"
