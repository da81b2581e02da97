"""Tiled equals whole, for all that the config can say: random networks, sizes, tiles and strips.

Three comparisons with one plain pass over the whole image: what a user gets in float32,
all of the arithmetic in float64, and networks of whole numbers bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import log2
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from numpy.typing import NDArray
from tests.inference.wholes import Case, cases, make_whole_numbers, randomize, whole_pass
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization
from unetari.core.spec import ModelSpec
from unetari.core.tiles import Tile, read_mirrored
from unetari.inference.job import prepare
from unetari.inference.lean import LeanUNet
from unetari.inference.predict import collect
from unetari.model.checkpoint import Model
from unetari.model.unet import UNet

Check = Callable[[Case], None]

DEPTHS = [pytest.param(dim, n, id=f"{dim}D-{n}") for dim in (2, 3) for n in range(1, 7)]


def as_slices(spans: Any) -> tuple[slice, ...]:
    """Return an index of all channels and a box."""
    return (slice(None), *(span.slice for span in spans))


def check_predict(case: Case) -> None:
    """What a user gets, in float32: a softmax of scores, with all of the engine in between."""
    torch.manual_seed(case.seed)
    network = randomize(UNet(case.config), case.seed)
    spec = ModelSpec(config=case.config, normalization=Normalization(method="none"))
    model = Model.from_network(network, spec)
    image = case.make_image().astype(np.float32)
    job = prepare(
        image,
        model,
        axes="CZYX" if case.config.dim == 3 else "CYX",
        region=case.region,
        tile_shape=case.tile_shape,
        scores=True,
        device="cpu",
    )
    found = collect(replace(job, strip=case.strip))
    logits = torch.from_numpy(whole_pass(network, image, case.config)[(slice(None), *case.region)])
    one_class = case.config.out_channels == 1
    expected = logits.sigmoid() if one_class else logits.softmax(0)
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, expected.numpy(), rtol=0, atol=1e-5)


def compute_tiles(
    network: UNet, case: Case, image: NDArray[np.float64]
) -> Iterator[tuple[Tile, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield every tile with what it writes: of the plain network, and of the lean one in strips."""
    lean = LeanUNet(network)
    for tile in case.plan:
        block = read_mirrored(lambda box: image[as_slices(box)], tile.outer, case.shape)
        batch = torch.from_numpy(block)[None]
        with torch.inference_mode():
            plain = network(batch)[0][as_slices(tile.local)]
            stream = lean.stream(tile.shape, [span.slice for span in tile.local])
            strips = torch.split(batch, case.strip, dim=2)
            rows = [found for strip in strips for found in stream.push(strip)]
        yield tile, plain.numpy(), torch.cat(rows, dim=2)[0].numpy()


def check_float64(case: Case) -> None:
    """Scores in float64, which differ by what the order of a sum changes.

    The kernels of torch do not give a voxel the same last bit in arrays of different sizes:
    a convolution is a matrix product, whose last few columns are summed in another order;
    bilinear interpolation has one kernel for outputs of up to 128 rows and columns together,
    and another one beyond; ELU is vectorized, and computed otherwise for the last few values.
    """
    torch.manual_seed(case.seed)
    network = randomize(UNet(case.config), case.seed).double()
    image = case.make_image()
    expected = whole_pass(network, image, case.config)
    scale = max(1.0, float(np.abs(expected).max()))
    for tile, plain, lean in compute_tiles(network, case, image):
        wanted = expected[as_slices(tile.inner)]
        np.testing.assert_allclose(plain, wanted, rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(lean, wanted, rtol=0, atol=1e-12 * scale)


def check_bits(case: Case) -> None:
    """Scores of networks of whole numbers: sums are exact in any order, and nothing may differ."""
    network = make_whole_numbers(UNet(case.config), case.seed)
    image = case.make_image(whole_numbers=True)
    with Largest(network) as largest:
        expected = whole_pass(network, image, case.config)
    assume(largest.bits(case.config) <= 53)
    for tile, plain, lean in compute_tiles(network, case, image):
        np.testing.assert_array_equal(plain, expected[as_slices(tile.inner)])
        np.testing.assert_array_equal(lean, expected[as_slices(tile.inner)])


# Binary digits after the point that doubling the resolution adds: linear interpolation has weights
# of 1/4 and 3/4 per axis, the cubic one multiples of 1/256.
FRACTION_BITS = {"transposed": 0, "nearest": 0, "bilinear": 4, "trilinear": 6, "bicubic": 16}
SUM_BITS = 6  # parts of a sum can be larger than the sum


class Largest:
    """Watches a pass for its largest number."""

    def __init__(self, network: UNet) -> None:
        self._network = network
        self._value = 1.0

    def __enter__(self) -> Largest:
        leaves = [module for module in self._network.modules() if not list(module.children())]
        self._hooks = [module.register_forward_hook(self._see) for module in leaves]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._value = max(self._value, float(output.abs().max()))

    def bits(self, config: UNetConfig) -> float:
        """Return how many binary digits a number has at most."""
        fraction = FRACTION_BITS[config.up_mode] * (config.n_blocks - 1)
        return fraction + log2(self._value) + SUM_BITS


def explore(check: Check, dim: int, n_blocks: int, *, examples: int, most_voxels: int) -> None:
    """Check random cases of one depth."""
    drawn = cases(dim, n_blocks, most_voxels=most_voxels, whole_numbers=check is check_bits)

    @given(case=drawn)
    @settings(max_examples=examples)
    def run(case: Case) -> None:
        check(case)

    run()


@pytest.mark.parametrize("check", [check_predict, check_float64, check_bits])
@pytest.mark.parametrize(("dim", "n_blocks"), DEPTHS)
def test_a_few(check: Check, dim: int, n_blocks: int) -> None:
    explore(check, dim, n_blocks, examples=5, most_voxels=400_000)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_predict, check_float64, check_bits])
@pytest.mark.parametrize(("dim", "n_blocks"), DEPTHS)
def test_many(check: Check, dim: int, n_blocks: int) -> None:
    explore(check, dim, n_blocks, examples=60, most_voxels=1_000_000)
