"""What is measured: networks, and the images they see."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unetari import Model, UNetConfig, load_model
from unetari.core.network import reach_of
from unetari.core.normalization import fit_intensity
from unetari.core.tiles import Span, mirror
from unetari.samples import nuclei_2d, nuclei_3d

ARTICLE = {
    "article-2d": UNetConfig(dim=2, n_blocks=4, start_filters=32),
    "article-3d": UNetConfig(dim=3, n_blocks=3, start_filters=16),
}
"""The article's block order, activation before normalization; weights drawn at random."""


@dataclass(frozen=True)
class Case:
    """A network and the size of an image."""

    model: str
    """A name in `ARTICLE`, or a bundled model."""
    shape: tuple[int, ...]
    """([Z,] Y, X)."""
    with_peers: bool = True
    """Whether other programs take part; it takes them many minutes."""

    @property
    def is_timed(self) -> bool:
        """Whether time matters; of the bundled models it is what comes out."""
        return self.model in ARTICLE

    @property
    def name(self) -> str:
        """The model and the size, for tables."""
        return f"{self.model}, {' x '.join(map(str, self.shape))}"

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read "article-2d:1024x1024"."""
        model, _, sizes = text.partition(":")
        return cls(model, tuple(int(size) for size in sizes.split("x")))

    def __str__(self) -> str:
        return f"{self.model}:{'x'.join(map(str, self.shape))}"


CASES = (
    Case("article-2d", (1024, 1024)),
    Case("article-2d", (2048, 2048), with_peers=False),
    Case("article-2d", (1023, 1537), with_peers=False),
    Case("article-3d", (96, 256, 256)),
    Case("article-3d", (83, 187, 203), with_peers=False),
    Case("nuclei-2d", (1023, 1537)),
    Case("nuclei-3d", (83, 187, 203)),
)
SMALL = (Case("nuclei-2d", (181, 203)),)


def make_image(case: Case) -> NDArray[np.uint16]:
    """Make an image of nuclei of any size: a generated one, mirrored as often as it takes."""
    image = (nuclei_2d() if len(case.shape) == 2 else nuclei_3d()).image
    for axis, size in enumerate(case.shape):
        image = image.take(mirror(Span(0, size), image.shape[axis]), axis=axis)
    return np.ascontiguousarray(image)


def make_model(case: Case) -> Model:
    """Load the trained network, or build the article's with the statistics that training gives."""
    if case.model not in ARTICLE:
        return load_model(case.model)
    model = Model.build(ARTICLE[case.model], seed=0)
    sides = (128, 128) if model.spec.config.dim == 2 else (32, 64, 64)
    seen = normalize(model, make_image(Case(case.model, sides)))
    settle_statistics(model.network, seen)
    return model


def settle_statistics(network: nn.Module, image: NDArray[np.float32]) -> None:
    """Give batch normalization the statistics of an image, (C, [Z,] Y, X)."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean over all that was seen
    network.train()
    with torch.inference_mode():
        network(torch.from_numpy(image)[None])
    network.eval()


def normalize(model: Model, image: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return what the network sees of an image, (1, [Z,] Y, X)."""
    block = image[None]
    return fit_intensity(model.spec.normalization, [block])(block)


def pad(model: Model, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mirror the ends of (C, [Z,] Y, X) up to sizes that the network takes."""
    for axis, reach in enumerate(reach_of(model.spec.config), start=1):
        size = image.shape[axis]
        padded = reach.rule.above(size)
        image = image.take(mirror(Span(0, padded), size), axis=axis)
    return image
