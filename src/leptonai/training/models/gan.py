"""Two networks against each other: one makes images, one tells them from real ones.

Shape letters in this file: B images, Z numbers that an image is made from, H, W, C of an image.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from leptonai.durable import replacing
from leptonai.errors import InvalidRequest
from leptonai.training.history import History
from leptonai.training.models import checks
from leptonai.training.models.base import Evaluation, Model, workers_here
from leptonai.training.models.images import checked_image_shape
from leptonai.training.models.tasks import Values

MAX_SEED = (1 << 64) - 1
MAX_SAMPLES = 1 << 20  # at once
_GROUPS = 8
_LEAST_SIDE = 4  # from which a generator begins
_LEAK = 0.2
_CHECKPOINT_FORMAT = "gan-checkpoint"


class GAN(Model, format="torch-gan"):
    """Numbers drawn from N(0, 1) [B, Z] in, images [B, H, W, C] out.

    It learns from images with or without labels, which it does not look at. Weights begin as
    DCGAN's: N(0, 0.02²), normalisations at N(1, 0.02²).

    Args:
        input_shape: (H, W, C) of an image.
        latent: Z.
        width: channels of the largest layer of both networks; each halving of the image doubles
            them. A multiple of 8.
        pixel_low, pixel_high: between which all pixels lie.

    Source: Radford, Metz, Chintala 2015, arXiv:1511.06434, "DCGAN"; the discriminator normalises
        groups of channels of one image, so that what it says of an image does not depend on others.
    """

    answers = False

    def __init__(
        self,
        input_shape: Sequence[int],
        latent: int = 64,
        *,
        width: int = 32,
        pixel_low: float = 0.0,
        pixel_high: float = 255.0,
    ) -> None:
        super().__init__()
        self.input_shape = checked_image_shape(input_shape, 2 * _LEAST_SIDE, "a halving")
        self.latent = checks.whole("latent", latent, 1, checks.MAX_WIDTH)
        self.width = checks.whole("width", width, _GROUPS, checks.MAX_WIDTH)
        if width % _GROUPS:
            raise InvalidRequest(f"expected a width that is a multiple of {_GROUPS}, got {width}")
        checks.scale("pixel", (pixel_low + pixel_high) / 2, (pixel_high - pixel_low) / 2)
        self.pixel_low, self.pixel_high = pixel_low, pixel_high
        self.task = Values((pixel_high - pixel_low) / 2)
        height, breadth, channels = self.input_shape
        halvings = _halvings(height, breadth)
        widths = [width << stage for stage in range(halvings)]
        smallest = (widths[-1], height >> halvings, breadth >> halvings)
        self.generator = _generator(latent, smallest, widths, channels)
        self.discriminator = _discriminator(smallest, widths, channels)
        self._begin()

    def forward(self, latent_BZ: Tensor) -> Tensor:
        checks.shape(self, "latent numbers", latent_BZ, ("B", self.latent))
        drawn: Tensor = self.generator(latent_BZ)
        span = (self.pixel_high - self.pixel_low) / 2
        return (drawn.permute(0, 2, 3, 1) + 1) * span + self.pixel_low

    def discriminate(self, images_BHWC: Tensor) -> Tensor:
        """How real images look, [B]: above 0 more likely so than not."""
        checks.shape(self, "images", images_BHWC, ("B", *self.input_shape))
        span = (self.pixel_high - self.pixel_low) / 2
        scaled = (images_BHWC.float() - self.pixel_low) / span - 1
        scores: Tensor = self.discriminator(scaled.permute(0, 3, 1, 2))
        return scores[:, 0]

    def sample(self, count: int, *, seed: int = 0) -> Tensor:
        """New images [count, H, W, C]; equal seeds draw equal ones."""
        checks.whole("count", count, 1, MAX_SAMPLES)
        with self._evaluating(), torch.inference_mode():
            images: Tensor = self(self._latent(count, seed, 0))
        return images.clone()

    def fit(  # type: ignore[override]  # two networks learn otherwise than one
        self,
        data: Any,
        epochs: int = 10,
        batch_size: int = 64,
        *,
        learning_rate: float = 2e-4,
        beta1: float = 0.5,
        smoothing: float = 0.1,
        seed: int = 0,
        checkpoint: str | Path | None = None,
    ) -> History:
        """Train both networks in turns. Each epoch's mean losses.

        What is drawn depends on (seed, step) alone. So a run that was interrupted, and goes on from
        its checkpoint, gives the weights of one that was not.

        Args:
            beta1: of both Adams.
            smoothing: how much less than certain the discriminator is to be of real images.
            checkpoint: a file, written after each epoch, and gone on from where there is one.

        Raises:
            InvalidRequest: the images are not such, or the checkpoint is one of another run.
        """
        if workers_here() > 1:
            raise InvalidRequest(
                "a GAN learns in one process, and this job has several workers",
                hint="leptonai train --num-workers 1 SCRIPT",
            )
        checks.whole("epochs", epochs, 1, 1 << 30)
        checks.whole("seed", seed, 0, MAX_SEED)
        checks.share("smoothing", smoothing)
        learners = {
            name: torch.optim.Adam(network.parameters(), learning_rate, betas=(beta1, 0.999))
            for name, network in (
                ("generator", self.generator),
                ("discriminator", self.discriminator),
            )
        }
        run: dict[str, Any] = {
            "seed": seed,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }
        run |= {"beta1": beta1, "smoothing": smoothing, "model": self.config()}
        file = Path(checkpoint) if checkpoint is not None else None
        step = 0
        rows: list[dict[str, float]] = []
        if file is not None and file.exists():
            step, rows = self._go_on_from(file, learners, run)
        loader = self.loader_of(data, batch_size, shuffle=True, seed=seed)
        if rows and hasattr(loader, "load_state_dict"):
            loader.load_state_dict({**loader.state_dict(), "epoch": len(rows), "position": 0})
        resumed_from = step or None
        self.train()
        for _ in range(len(rows), epochs):
            sums = {"discriminator_loss": 0.0, "generator_loss": 0.0}
            batches = 0
            for batch in loader:
                images = _images(batch).to(self.device)
                if not step:
                    checks.shape(self, "images", images, ("B", *self.input_shape))
                    checks.finite("images", images)
                losses = self._learn(images, learners, smoothing, seed, step)
                sums = {name: sums[name] + loss for name, loss in losses.items()}
                step += 1
                batches += 1
            if not batches:
                raise InvalidRequest("there is nothing in the data to learn from")
            means = {name: total / batches for name, total in sums.items()}
            rows.append(means)
            if file is not None:
                self._keep(file, learners, run, step, rows)
        self.eval()
        return History(rows, steps=step, resumed_from=resumed_from)

    def evaluate(self, data: Any, batch_size: int = 256) -> Evaluation:
        """Of the discriminator, between these images and as many that are made: its loss, and the
        share that it tells right; 0.5 is what a perfect generator leaves it."""
        loss, right, count = 0.0, 0, 0
        for number, batch in enumerate(self._batches(data, batch_size)):
            images = _images(batch).to(self.device)
            with torch.inference_mode():
                real_B = self.discriminate(images)
                made_B = self.discriminate(self(self._latent(len(images), 0, number)))
            scores = torch.cat((real_B, made_B))
            truth = torch.cat((torch.ones_like(real_B), torch.zeros_like(made_B)))
            loss += binary_cross_entropy_with_logits(scores, truth, reduction="sum").item()
            right += int(((scores > 0) == (truth > 0)).sum())
            count += len(scores)
        if not count:
            raise InvalidRequest("there is nothing in the data to evaluate with")
        return Evaluation(loss / count, right / count)

    def example(self, count: int = 1) -> Tensor:
        return torch.zeros((count, self.latent))

    def check_inputs(self, inputs: Any) -> None:
        checks.shape(self, "latent numbers", inputs, ("B", self.latent))
        checks.finite("latent numbers", inputs)

    def _learn(
        self,
        images: Tensor,
        learners: dict[str, torch.optim.Adam],
        smoothing: float,
        seed: int,
        step: int,
    ) -> dict[str, float]:
        made = self(self._latent(len(images), seed, step))
        real_B, made_B = self.discriminate(images), self.discriminate(made.detach())
        discriminator_loss = binary_cross_entropy_with_logits(
            real_B, torch.full_like(real_B, 1 - smoothing)
        ) + binary_cross_entropy_with_logits(made_B, torch.zeros_like(made_B))
        learners["discriminator"].zero_grad()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        learners["discriminator"].step()

        judged_B = self.discriminate(made)
        generator_loss = binary_cross_entropy_with_logits(judged_B, torch.ones_like(judged_B))
        learners["generator"].zero_grad()
        generator_loss.backward()  # type: ignore[no-untyped-call]
        learners["generator"].step()
        return {
            "discriminator_loss": discriminator_loss.item(),
            "generator_loss": generator_loss.item(),
        }

    def _latent(self, count: int, seed: int, step: int) -> Tensor:
        """Drawn on the CPU: the same on every device."""
        checks.whole("seed", seed, 0, MAX_SEED)
        drawn = np.random.default_rng([seed, step]).standard_normal(
            (count, self.latent), np.float32
        )
        return torch.from_numpy(drawn).to(self.device)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _keep(
        self,
        file: Path,
        learners: dict[str, torch.optim.Adam],
        run: dict[str, Any],
        step: int,
        rows: list[dict[str, float]],
    ) -> None:
        tensors = {f"model/{name}": weight for name, weight in self.state_dict().items()}
        for name, learner in learners.items():
            for number, state in learner.state_dict()["state"].items():
                tensors |= {f"{name}/{number}/{key}": value for key, value in state.items()}
        said = {"format": _CHECKPOINT_FORMAT, "run": run, "step": step, "epochs": rows}
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                beside,
                {"checkpoint": json.dumps(said)},
            )

    def _go_on_from(
        self, file: Path, learners: dict[str, torch.optim.Adam], run: dict[str, Any]
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
            self.load_state_dict(
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

    def _begin(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.02)


def _generator(
    latent: int, smallest: tuple[int, int, int], widths: Sequence[int], channels: int
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Linear(latent, smallest[0] * smallest[1] * smallest[2], bias=False),
        nn.Unflatten(1, smallest),
        nn.BatchNorm2d(smallest[0]),
        nn.ReLU(inplace=True),
    ]
    before = smallest[0]
    for after in reversed(widths[:-1]):
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
        before = after
    layers += [nn.ConvTranspose2d(before, channels, 4, stride=2, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


def _discriminator(
    smallest: tuple[int, int, int], widths: Sequence[int], channels: int
) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = channels
    for number, after in enumerate(widths):
        layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not number))
        if number:
            layers.append(nn.GroupNorm(_GROUPS, after))
        layers.append(nn.LeakyReLU(_LEAK, inplace=True))
        before = after
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(smallest[0] * smallest[1] * smallest[2], 1)
    )


def _halvings(height: int, width: int) -> int:
    """As many as leave sides of 4 or more; one at least."""
    count = 0
    while not (height | width) % 2 and min(height, width) >= 2 * _LEAST_SIDE:
        height, width, count = height // 2, width // 2, count + 1
    if not count:
        raise InvalidRequest(
            f"expected images with even sides of at least {2 * _LEAST_SIDE}, got {height} x {width}"
        )
    return count


def _images(batch: Any) -> Tensor:
    images = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(images, Tensor):
        raise InvalidRequest(f"expected batches of images, got a {type(images).__name__}")
    return images
