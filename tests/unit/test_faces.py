"""The published import names, and what importing them costs."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "sklearn", "uvicorn", "httpx", "asyncio", "starlette", "sqlalchemy"}


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after the statement, standard library included."""
    code = f"{statement}; import sys; print(*sys.modules)"
    return {*subprocess.check_output([sys.executable, "-c", code], text=True).split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import leptonai",
        "import lepton",
        "import lepton_ai, lepton_ai.models, lepton_ai.datasets",
        "import leptonai.training, leptonai.training.models, leptonai.data, leptonai.data.digits",
        "import leptonai.data.loader, leptonai.data.sets",
        "import leptonai.cli.platform, leptonai.log_files",  # what `up` needs to start the platform
    ],
)
def test_importing_a_name_pulls_in_nothing_heavy(statement: str) -> None:
    assert imported_by(statement) & HEAVY == set()


def test_importing_the_package_alone_loads_no_other_part_of_it() -> None:
    loaded = {name for name in imported_by("import leptonai") if name.startswith("lepton")}
    assert loaded == {"leptonai"}


def test_a_photon_can_be_written_without_a_web_server_installed() -> None:
    assert imported_by("from leptonai import Photon") & {"torch", "numpy", "uvicorn"} == set()


def test_a_first_step_does_not_wait_for_what_records_or_registers_a_training() -> None:
    step = (
        "import torch; from leptonai.training import Trainer; ones = torch.ones(4, 1); "
        "Trainer(torch.nn.Linear(1, 1), (ones, ones), quiet=True).fit()"
    )
    loaded = imported_by(step)
    assert "leptonai.training.trainer" in loaded
    assert loaded & {"leptonai.run", "leptonai.tracking.active", "msgspec", "safetensors"} == set()


def test_a_platform_that_starts_does_not_wait_for_numpy() -> None:
    parts = ("main.running", "control.plane", "control.api.app", "stores")
    assert "numpy" not in imported_by(f"import {', '.join(f'leptonai.{part}' for part in parts)}")


def test_the_names_are_the_same_things_everywhere() -> None:
    import lepton_ai
    import leptonai
    from lepton_ai.datasets import Digits
    from lepton_ai.models import CNN, GPT
    from leptonai.data.digits import Digits as OurDigits
    from leptonai.data.loader.loader import DataLoader
    from leptonai.photon import HTTPException, Photon
    from leptonai.training.models import CNN as OurCNN  # noqa: N811
    from leptonai.training.models.gpt import GPT as OurGPT  # noqa: N811

    assert leptonai.Photon is Photon and leptonai.HTTPException is HTTPException
    assert leptonai.DataLoader is leptonai.data.DataLoader is DataLoader
    assert CNN is lepton_ai.models.CNN is OurCNN
    assert GPT is OurGPT and [*lepton_ai.models.__all__] == [*leptonai.training.models.__all__]
    assert all(getattr(lepton_ai.models, name) for name in lepton_ai.models.__all__)
    assert Digits is lepton_ai.datasets.Digits is OurDigits


@pytest.mark.parametrize(
    "module",
    ["leptonai", "lepton", "lepton_ai", "lepton_ai.models", "lepton_ai.datasets"],
)
def test_an_unknown_name_is_an_attribute_error(module: str) -> None:
    found = __import__(module, fromlist=["nothing"])
    with pytest.raises(AttributeError, match=f"'{module}' has no attribute 'nothing'"):
        _ = found.nothing
