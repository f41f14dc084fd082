"""Where a GAN's training was after an epoch: both networks, both optimisers, what was told."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from leptonai.durable import replacing
from leptonai.errors import InvalidRequest

FORMAT = "gan-checkpoint"


def keep(
    file: Path,
    model: nn.Module,
    learners: Mapping[str, torch.optim.Adam],
    run: Mapping[str, Any],
    step: int,
    rows: list[dict[str, float]],
) -> None:
    """At once or not at all."""
    tensors = {f"model/{name}": weight for name, weight in model.state_dict().items()}
    for name, learner in learners.items():
        for number, state in learner.state_dict()["state"].items():
            tensors |= {f"{name}/{number}/{key}": value for key, value in state.items()}
    said = {"format": FORMAT, "run": run, "step": step, "epochs": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            beside,
            {"checkpoint": json.dumps(said)},
        )


def go_on_from(
    file: Path,
    model: nn.Module,
    learners: Mapping[str, torch.optim.Adam],
    run: Mapping[str, Any],
) -> tuple[int, list[dict[str, float]]]:
    """The step that comes next, and what was told of the epochs before it."""
    try:
        with safe_open(file, framework="pt") as opened:
            said = json.loads((opened.metadata() or {})["checkpoint"])
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        if said["run"] != run:
            before = said["run"]
            changed = [name for name in run if run[name] != before.get(name)]
            raise InvalidRequest(
                f"{file} is the checkpoint of a run with another {', '.join(changed)}",
                hint="give the run a checkpoint of its own",
            )
        model.load_state_dict(
            {
                name.removeprefix("model/"): tensor
                for name, tensor in tensors.items()
                if name.startswith("model/")
            }
        )
        for name, learner in learners.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"{name}/"):
                    _, number, part = key.split("/")
                    state.setdefault(int(number), {})[part] = tensor
            learner.load_state_dict({**learner.state_dict(), "state": state})
        return int(said["step"]), list(said["epochs"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InvalidRequest(
            f"the checkpoint {file} cannot be read: {error}", hint="remove it to begin anew"
        ) from error
