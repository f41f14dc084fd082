"""``python spread_models.py DIRECTORY``: one of two ranks that compute a model together.

Each model is cut by its own plan, over two processes: by layers' tensors, and by FSDP. What comes
out, the gradients and what is saved are to be those of the model alone.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module

from leptonai.training.models import CNN, GPT, Model, ResNet, TransformerEncoder, load_model

TOLERANCE = 1e-5
TOKENS = torch.randint(1, 17, (3, 8), generator=torch.Generator().manual_seed(0))
MODELS: dict[str, Callable[[], Model]] = {
    "gpt": lambda: GPT(17, width=16, context=8, layers=2, heads=4),
    "gpt of its own head": lambda: GPT(
        17, width=16, context=8, layers=2, heads=4, positions="learned", tied=False
    ),
    "hidden tokens": lambda: TransformerEncoder(17, width=16, layers=2),
    "classes": lambda: TransformerEncoder(17, 3, width=16, layers=2),
    "cnn": lambda: CNN((8, 8, 1), 3, widths=(8,)),
    "resnet": lambda: ResNet((8, 8, 1), 3, width=8),
}


def made(make: Callable[[], Model]) -> Model:
    torch.manual_seed(0)
    return make().eval()


def check(name: str, spread: Model, alone: Model, inputs: torch.Tensor, folder: Path) -> None:
    expected, outputs = alone(inputs), spread(inputs)
    torch.testing.assert_close(outputs, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for each in (outputs, expected):
        each.square().mean().backward()
    for (part, weight), own in zip(spread.named_parameters(), alone.parameters(), strict=True):
        assert weight.grad is not None and own.grad is not None, part
        whole = weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad
        torch.testing.assert_close(whole, own.grad, atol=TOLERANCE, rtol=1e-3, msg=f"{name} {part}")
    spread.save(folder / f"{name}.pth")
    dist.barrier()
    again = load_model(folder / f"{name}.pth").state_dict()
    for part, weight in alone.state_dict().items():
        assert torch.equal(again[part], weight), (name, part)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for name, make in MODELS.items():
        inputs = TOKENS if name not in ("cnn", "resnet") else torch.ones((2, 8, 8, 1))
        plan = made(make).plan()
        if plan.tensor:
            cut = parallelize_module(made(make), mesh, dict(plan.tensor))
            shapes = {tuple(each.to_local().shape) for each in cut.parameters() if is_cut(each)}
            assert shapes, f"nothing of {name} is cut"
            check(f"{name} by tensors", cut, made(make), inputs, folder)
        model = made(make)
        for block in model.plan().blocks:
            fully_shard(block, mesh=mesh)
        check(f"{name} by fsdp", fully_shard(model, mesh=mesh), made(make), inputs, folder)
        print(name, flush=True)
    dist.destroy_process_group()


def is_cut(weight: torch.Tensor) -> bool:
    return hasattr(weight, "placements") and any(each.is_shard() for each in weight.placements)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
