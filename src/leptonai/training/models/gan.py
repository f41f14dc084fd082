"""Two networks against each other: one makes images, one tells them from real ones.

Shape letters in this file: B images, Z numbers that an image is made from, H, W, C of an image.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from leptonai.errors import InvalidRequest
from leptonai.training.exits import exit_by_error
from leptonai.training.feeding import loader_of
from leptonai.training.history import History
from leptonai.training.models import checks, gan_checkpoints
from leptonai.training.models.base import Evaluation, Model, check_workers
from leptonai.training.models.images import checked_image_shape
from leptonai.training.models.tasks import Values
from leptonai.training.parallel import align
from leptonai.training.world import World, enter_world

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

MAX_SEED = (1 << 64) - 1
MAX_SAMPLES = 1 << 20  # at once
_GROUPS = 8
_LEAST_SIDE = 4  # from which a generator begins
_LEAK = 0.2
CHECKPOINT_FILE = "gan.safetensors"  # within a job


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
        quiet: bool = False,
        num_workers: int = 1,
        client: "LeptonClient | None" = None,
        resources: Mapping[str, Any] | None = None,
    ) -> History:
        """Train both networks in turns. Each epoch's mean losses.

        Within a job of several workers they learn together: a step's gradients are those of the
        mean over all their images, and all have the same weights. Each normalises its own images.
        What is drawn depends on (seed, step, rank) alone. So a run that was interrupted, and goes
        on from its checkpoint, gives the weights of one that was not.

        Args:
            batch_size: of a step, over all workers.
            beta1: of both Adams.
            smoothing: how much less than certain the discriminator is to be of real images.
            checkpoint: a file, written after each epoch, and gone on from where there is one.
                Within a job it has one by itself.
            num_workers, client, resources: as of every model's `fit`.

        Raises:
            InvalidRequest: the images are not such, or the checkpoint is one of another run.
            JobFailed: the job has failed; ends with what it said last.
        """
        exit_by_error()
        checks.whole("epochs", epochs, 1, 1 << 30)
        checks.whole("seed", seed, 0, MAX_SEED)
        checks.share("smoothing", smoothing)
        if client is not None:
            return self._fit_in_job(
                data, epochs, batch_size, learning_rate, seed, checkpoint, num_workers, client,
                resources or {}, {"beta1": beta1, "smoothing": smoothing, "quiet": quiet},
            )  # fmt: skip
        check_workers(num_workers)
        world = enter_world()
        self.to(world.device)
        align([*self.parameters(), *self.buffers()], world)
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
        place = os.environ.get("LEPTON_CHECKPOINT_DIR")
        if checkpoint is None and place:
            checkpoint = Path(place) / CHECKPOINT_FILE
        file = Path(checkpoint) if checkpoint is not None else None
        step = 0
        rows: list[dict[str, float]] = []
        if file is not None and file.exists():
            step, rows = gan_checkpoints.go_on_from(file, self, learners, run)
        shuffled = self.loader_of(data, batch_size, shuffle=True, seed=seed)
        loader = loader_of(
            shuffled, world, batch_size=batch_size, shuffle=True, seed=seed, pipeline=None
        )
        if rows and hasattr(loader, "load_state_dict"):
            loader.load_state_dict({**loader.state_dict(), "epoch": len(rows), "position": 0})
        resumed_from = step or None
        self.train()
        for _ in range(len(rows), epochs):
            sums = torch.zeros(2, dtype=torch.float64)
            batches = 0
            position = getattr(loader, "position", 0)
            for batch in loader:
                images = _images(batch).to(self.device)
                if not step:
                    checks.shape(self, "images", images, ("B", *self.input_shape))
                    checks.finite("images", images)
                end = getattr(loader, "position", 0)
                of_all = end - position or len(images) * world.size
                position = end
                latent = self._latent(len(images), seed, step, world.rank)
                share = len(images) / of_all if world.size > 1 else 1.0
                sums += self._learn(images, latent, learners, smoothing, share, world)
                step += 1
                batches += 1
            if not batches:
                raise InvalidRequest("there is nothing in the data to learn from")
            align(self.buffers(), world)
            means = (world.sums(sums) / batches).tolist()
            rows.append(dict(zip(("discriminator_loss", "generator_loss"), means, strict=True)))
            if world.is_first:
                if file is not None:
                    gan_checkpoints.keep(file, self, learners, run, step, rows)
                if not quiet:
                    told = "  ".join(f"{name} {value:.4f}" for name, value in rows[-1].items())
                    print(f"epoch {len(rows)}/{epochs}  {told}", flush=True)
        self.eval()
        return History(rows, steps=step, resumed_from=resumed_from)

    def _fit_in_job(
        self,
        data: Any,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        checkpoint: str | Path | None,
        workers: int,
        client: "LeptonClient",
        resources: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> History:
        from leptonai.training.models.sending import fit_in_job

        if checkpoint is not None:
            raise InvalidRequest(
                "a checkpoint is a file of this machine", hint="leave it out: a job has its own"
            )
        return fit_in_job(
            self,
            data,
            validation=None,
            pipeline=None,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            options=options,
            workers=workers,
            resources=resources,
            client=client,
        )

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
        latent_BZ: Tensor,
        learners: dict[str, torch.optim.Adam],
        smoothing: float,
        share: float,
        world: World,
    ) -> Tensor:
        """The discriminator's loss and the generator's, as this rank's share of them."""
        made = self(latent_BZ)
        real_B, made_B = self.discriminate(images), self.discriminate(made.detach())
        discriminator_loss = share * (
            binary_cross_entropy_with_logits(real_B, torch.full_like(real_B, 1 - smoothing))
            + binary_cross_entropy_with_logits(made_B, torch.zeros_like(made_B))
        )
        learners["discriminator"].zero_grad()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        _add_up_gradients(self.discriminator, world)
        learners["discriminator"].step()

        judged_B = self.discriminate(made)
        generator_loss = share * binary_cross_entropy_with_logits(
            judged_B, torch.ones_like(judged_B)
        )
        learners["generator"].zero_grad()
        generator_loss.backward()  # type: ignore[no-untyped-call]
        _add_up_gradients(self.generator, world)
        learners["generator"].step()
        return torch.tensor([discriminator_loss.item(), generator_loss.item()], dtype=torch.float64)

    def _latent(self, count: int, seed: int, step: int, rank: int = 0) -> Tensor:
        """Drawn on the CPU: the same on every device."""
        checks.whole("seed", seed, 0, MAX_SEED)
        of = [seed, step, rank] if rank else [seed, step]
        drawn = np.random.default_rng(of).standard_normal((count, self.latent), np.float32)
        return torch.from_numpy(drawn).to(self.device)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _begin(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.02)


def _add_up_gradients(network: nn.Module, world: World) -> None:
    """By hand: a discriminator that is called three times a step is more than DDP expects."""
    if world.size == 1:
        return
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    summed = world.sums(torch.cat([each.flatten() for each in gradients]))
    for each, part in zip(
        gradients, torch.split(summed, [g.numel() for g in gradients]), strict=True
    ):
        each.copy_(part.view_as(each))


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
