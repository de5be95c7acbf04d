"""The recipe of ``compression.py``: the networks, their data and their training. Each was written before its results.

*Denoiser.* A U-Net of three levels with concat skips (0.27 M parameters, batch norms) that predicts the noise of grey
images in [0, 1] with Gaussian noise of 25/255, in parts of its deviation. Trained on patches of the images that ship
inside scikit-image and scikit-learn, tested on crops of others. Quality is the PSNR in dB.

*Denoiser without norms.* The recipe that came first: no norms, noise predicted as it is, a third of the rate. It is a
decibel worse, and up to a third of its channels die in training. Whoever finds those can remove them for nothing, so
that it tells methods apart only below their share; it was measured at 75 % alone, and its results are kept for that.

*Digits.* A DenseNet (three blocks of four layers, growth 12, bottleneck 4) on scikit-learn's digits, half for
training. Quality is the share of test digits that are recognised, in percent.

Calibration data are training inputs, never labels. The short fine-tuning is the same for every method.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import skimage.data
import skimage.transform
import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NOISE = 25 / 255
PATCH = 48
TRAINING_IMAGES = ("astronaut", "coffee", "brick", "grass", "gravel", "coins", "rocket", "hubble_deep_field", "china")
TEST_IMAGES = ("camera", "chelsea", "moon", "flower")
CROP = 192
WIDTH = 12
STEPS, FINE_TUNING_STEPS, BATCH = 1500, 200, 16
CALIBRATION_BATCHES = 16
GROWTH, LAYERS, BOTTLENECK = 12, (4, 4, 4), 4
EPOCHS, FINE_TUNING_EPOCHS, DIGITS_BATCH = 40, 4, 64
FINE_TUNING_RATE = 3e-4


# -- networks ----------------------------------------------------------------------------------------------------------


def double(channels: int, out: int, *, norms: bool) -> nn.Sequential:
    """Two convolutions."""
    layers: list[nn.Module] = []
    for read in (channels, out):
        layers.append(nn.Conv2d(read, out, 3, padding=1, bias=not norms))
        layers += [nn.BatchNorm2d(out), nn.ReLU()] if norms else [nn.ReLU()]
    return nn.Sequential(*layers)


class Denoiser(nn.Module):
    """A U-Net that predicts the noise of an image and takes it off."""

    def __init__(self, width: int = WIDTH, levels: int = 3, *, norms: bool = True) -> None:
        super().__init__()
        self.scale = NOISE if norms else 1.0
        widths = [width * 2**level for level in range(levels + 1)]
        pairs = zip([1, *widths[:-2]], widths[:-1], strict=True)
        self.down = nn.ModuleList(double(a, b, norms=norms) for a, b in pairs)
        self.bottom = double(widths[-2], widths[-1], norms=norms)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * one, one, 2, stride=2) for one in reversed(widths[:-1]))
        self.join = nn.ModuleList(double(2 * one, one, norms=norms) for one in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 1, height, width) to the same."""
        x, skips = image, []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([skips.pop(), up(x)], 1))
        return image - self.scale * self.head(x)


class DenseLayer(nn.Module):
    """Norm, activation, 1x1, norm, activation, 3x3; joined to what it read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, BOTTLENECK * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * GROWTH)
        self.conv2 = nn.Conv2d(BOTTLENECK * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, …) to (batch, channels + growth, …)."""
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class Digits(nn.Module):
    """A DenseNet-BC for images of 8 by 8."""

    def __init__(self) -> None:
        super().__init__()
        channels = 2 * GROWTH
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for number, depth in enumerate(LAYERS):
            for _ in range(depth):
                stages.append(DenseLayer(channels))
                channels += GROWTH
            if number < len(LAYERS) - 1:
                stages += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False)]
                stages += [nn.AvgPool2d(2)] if number == 0 else []
                channels //= 2
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 1, 8, 8) to (batch, 10)."""
        return self.head(F.relu(self.norm(self.stages(self.stem(image)))).mean((2, 3)))


# -- data --------------------------------------------------------------------------------------------------------------


@cache
def image(name: str) -> Tensor:
    """A grey image in [0, 1] at half its size: photographs are smooth at full size."""
    if name in ("china", "flower"):
        pixels = sklearn.datasets.load_sample_image(f"{name}.jpg")
    else:
        pixels = getattr(skimage.data, name)()
    grey = np.asarray(pixels, dtype=np.float32) / 255
    if grey.ndim == 3:
        grey = grey[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    half = (grey.shape[0] // 2, grey.shape[1] // 2)
    return torch.from_numpy(skimage.transform.resize(grey, half, anti_aliasing=True).astype(np.float32))


def patches(generator: torch.Generator) -> Tensor:
    """A batch of clean patches, mirrored at random."""
    found = []
    for _ in range(BATCH):
        whole = image(TRAINING_IMAGES[int(torch.randint(len(TRAINING_IMAGES), (), generator=generator))])
        top, left = (int(torch.randint(size - PATCH, (), generator=generator)) for size in whole.shape)
        patch = whole[top : top + PATCH, left : left + PATCH]
        found.append(patch.flip(-1) if torch.rand((), generator=generator) < 0.5 else patch)
    return torch.stack(found)[:, None]


def noisy(clean: Tensor, generator: torch.Generator) -> Tensor:
    """The same with noise."""
    return clean + NOISE * torch.randn(clean.shape, generator=generator)


@cache
def test_images() -> tuple[Tensor, Tensor]:
    """Crops that no training saw, clean and with noise."""
    crops = []
    for name in TEST_IMAGES:
        whole = image(name)
        side = min(CROP, *(size // 8 * 8 for size in whole.shape))
        top, left = ((size - side) // 2 for size in whole.shape)
        crop = whole[top : top + side, left : left + side]
        crops += [crop[:128, :128], crop[-128:, -128:]]
    clean = torch.stack(crops)[:, None]
    return clean, noisy(clean, torch.Generator().manual_seed(99))


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels of training and test: every other digit."""
    found = sklearn.datasets.load_digits()
    images = torch.from_numpy(found.images.astype(np.float32))[:, None] / 16
    labels = torch.from_numpy(found.target.astype(np.int64))
    return images[::2], labels[::2], images[1::2], labels[1::2]


# -- tasks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A network with its training, its measure of quality, and inputs to calibrate with."""

    name: str
    unit: str
    build: Callable[[], nn.Module]
    example: Tensor
    batches: Callable[[int, bool], Iterator[tuple[Tensor, Tensor]]]  # seed, whether for fine-tuning
    rate: float
    loss: Callable[[Tensor, Tensor], Tensor]
    quality: Callable[[nn.Module], float]
    calibration: Callable[[int], list[Tensor]]  # seed -> batches of inputs
    unseen: Callable[[int], list[Tensor]]  # the same of inputs that are neither trained nor calibrated with

    def trained(self, seed: int) -> nn.Module:
        """A network trained from a seed; its weights are kept in the temporary directory, by this very recipe."""
        torch.manual_seed(seed)
        model = self.build()
        recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
        kept = Path(tempfile.gettempdir(), f"skipgraph-{self.name.replace(' ', '-')}-{seed}-{recipe}.pt")
        if kept.is_file():
            model.load_state_dict(torch.load(kept, weights_only=True))
        else:
            self.train(model, seed, fine=False)
            torch.save(model.state_dict(), kept)
        return model.eval()

    def train(self, model: nn.Module, seed: int, *, fine: bool) -> None:
        """AdamW with a cosine; fine-tuning is the same for all."""
        batches = list(self.batches(seed, fine)) if fine else None
        steps = len(batches) if batches is not None else sum(1 for _ in self.batches(seed, fine))
        rate = FINE_TUNING_RATE if fine else self.rate
        parameters = [one for one in model.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        model.train()
        for inputs, wanted in batches if batches is not None else self.batches(seed, fine):
            optimiser.zero_grad()
            self.loss(model(inputs), wanted).backward()
            optimiser.step()
            cosine.step()
        model.eval()


def _noise_batches(seed: int, fine: bool) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1000 * seed + fine)
    for _ in range(FINE_TUNING_STEPS if fine else STEPS):
        clean = patches(generator)
        yield noisy(clean, generator), clean


def _psnr(model: nn.Module) -> float:
    clean, given = test_images()
    with torch.no_grad():
        errors = (model(given).clamp(0, 1) - clean).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def _noise_calibration(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2000 + seed)
    return [noisy(patches(generator), generator) for _ in range(CALIBRATION_BATCHES)]


def _noise_unseen(seed: int) -> list[Tensor]:
    return [one[None] for one in test_images()[1]]


def _digit_batches(seed: int, fine: bool) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels, _, _ = digits()
    generator = torch.Generator().manual_seed(1000 * seed + fine)
    for _ in range(FINE_TUNING_EPOCHS if fine else EPOCHS):
        for chosen in torch.randperm(len(images), generator=generator).split(DIGITS_BATCH):
            yield images[chosen], labels[chosen]


def _accuracy(model: nn.Module) -> float:
    _, _, images, labels = digits()
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) == labels).float().mean())


def _digit_calibration(seed: int) -> list[Tensor]:
    return list(digits()[0].split(DIGITS_BATCH))


def _digit_unseen(seed: int) -> list[Tensor]:
    return list(digits()[2].split(DIGITS_BATCH))


TASKS = {
    "denoiser": Task(
        "denoiser", "dB", Denoiser, torch.zeros(1, 1, PATCH, PATCH), _noise_batches, 3e-3, F.mse_loss, _psnr,
        _noise_calibration, _noise_unseen,
    ),
    "denoiser without norms": Task(
        "denoiser without norms", "dB", partial(Denoiser, norms=False), torch.zeros(1, 1, PATCH, PATCH), _noise_batches,
        1e-3, F.mse_loss, _psnr, _noise_calibration, _noise_unseen,
    ),
    "digits": Task(
        "digits", "%", Digits, torch.zeros(2, 1, 8, 8), _digit_batches, 2e-3, F.cross_entropy, _accuracy,
        _digit_calibration, _digit_unseen,
    ),
}  # fmt: skip
