"""Networks that are no `UNet`: planned, predicted and decided from a `ForeignConfig`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetari.core.network import ForeignConfig
from unetari.core.shapes import check_shape
from unetari.core.sizes import Reach, SizeRule
from unetari.core.spec import ModelSpec
from unetari.core.tiles import plan_tiles
from unetari.errors import ConfigError, ModelFileError, ShapeError
from unetari.inference.predict import predict
from unetari.model.checkpoint import Model, save_model


class Anisotropic(nn.Module):
    """Pools in the plane only, and sees one voxel along z on its first level."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, (1, 3, 3), padding=(0, 1, 1))
        self.deep = nn.Conv3d(4, 4, 3, padding=1)
        self.last = nn.Conv3d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        deep = self.deep(nn.functional.max_pool3d(x, (1, 2, 2))).relu()
        raised = nn.functional.interpolate(deep, scale_factor=(1.0, 2.0, 2.0))
        scores: Tensor = self.last(x + raised)
        return scores


class OnlyEight(nn.Module):
    """Takes 8 x 8 pixels and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (8, 8)
        kernel = torch.ones(1, 1, 3, 3) / 9
        return nn.functional.conv2d(x, kernel, padding=1)


ANISOTROPIC = (
    Reach(SizeRule(1, 1, 0), halo=1),
    Reach(SizeRule(2, 2, 0), halo=4),
    Reach(SizeRule(2, 2, 0), halo=4),
)
ONLY_EIGHT = (Reach(SizeRule(1, 8, 0), halo=1, largest=8),) * 2


def model(network: nn.Module, **fields: Any) -> Model:
    torch.manual_seed(0)
    given = {
        "architecture": "a test",
        "in_channels": 1,
        "out_channels": 2,
        "classes": "exclusive",
        "output": "logits",
    }
    config = ForeignConfig(**{**given, **fields})
    return Model(network.eval(), ModelSpec(config=config), "a test", "")


@pytest.mark.parametrize("shape", [(9, 33, 50), (1, 7, 64), (12, 2, 2)])
def test_axes_of_different_reach_are_tiled_exactly(shape: tuple[int, ...]) -> None:
    network = model(Anisotropic(), dim=3, reach=ANISOTROPIC)
    image = np.random.default_rng(0).random(shape, np.float32)
    whole = predict(image, network, axes="ZYX", scores=True)
    tiled = predict(image, network, axes="ZYX", scores=True, tile_shape=(3, 12, 14))
    assert tiled.scores is not None
    assert whole.scores is not None
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-6)
    assert tiled.record.halo == (1, 4, 4)
    assert tiled.record.n_tiles > 1 or shape == (12, 2, 2)


@pytest.mark.parametrize("shape", [(8, 8), (3, 5), (20, 31)])
def test_network_of_one_size_covers_any_image(shape: tuple[int, int]) -> None:
    network = model(
        OnlyEight(), dim=2, reach=ONLY_EIGHT, out_channels=1, classes="independent"
    ).replace(normalization={"method": "none"})
    image = np.random.default_rng(0).random(shape, np.float32)
    found = predict(image, network, axes="YX", scores=True)
    assert found.record.tile_shape == (8, 8)
    assert found.scores is not None
    # Inside, where nothing is padded or mirrored, it is the plain mean of 3 x 3 pixels.
    means = nn.functional.avg_pool2d(torch.from_numpy(image)[None, None], 3, stride=1)[0, 0]
    np.testing.assert_allclose(
        found.scores[0, 1:-1, 1:-1], means.sigmoid().numpy()[: shape[0], : shape[1]], atol=1e-6
    )


def test_a_network_of_one_size_says_so() -> None:
    config = model(OnlyEight(), dim=2, reach=ONLY_EIGHT).spec.config
    assert "takes 8 px and no other size" in check_shape(config, (20, 8)).notes[0]
    with pytest.raises(ShapeError, match="no other size"):
        plan_tiles((20, 20), config, tile_shape=(2, 2))


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_independent_classes_leave_the_rest_as_background(output: str) -> None:
    values = torch.tensor([[0.1, 0.9, 0.7], [0.2, 0.6, 0.8]])  # two kinds, three voxels

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            given = values.logit() if output == "logits" else values
            return given[None, :, None, :].expand(1, 2, x.shape[2], 3)

    network = model(
        Constant(),
        dim=2,
        reach=(Reach(SizeRule(1, 1, 0), halo=0),) * 2,
        classes="independent",
        output=output,
    )
    found = predict(np.zeros((1, 3), np.float32), network, axes="YX", scores=True)
    assert found.labels.tolist() == [[0, 1, 2]]
    assert found.scores is not None
    np.testing.assert_allclose(found.scores[:, 0], values.numpy(), atol=1e-6)
    assert network.spec.labels == ("background", "class 1", "class 2")


def test_what_sees_everything_is_measured_at_tile_borders() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((x - x.mean(), x), dim=1)

    reach = (Reach(SizeRule(1, 1, 0), halo=4),) * 2
    network = model(Centred(), dim=2, reach=reach, tiles_exactly=False)
    image = np.random.default_rng(0).random((40, 40), np.float32)
    with pytest.warns(UserWarning, match="sees its whole input at once"):
        found = predict(image, network, axes="YX", tile_shape=(24, 24))
    assert found.record.seams is not None
    assert found.record.seams.largest_difference > 0


def test_a_foreign_network_is_not_saved_as_ours(tmp_path: Any) -> None:
    network = model(Anisotropic(), dim=3, reach=ANISOTROPIC)
    with pytest.raises(ModelFileError, match="Only U-Nets"):
        save_model(network, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_one_reach_per_axis() -> None:
    with pytest.raises(ConfigError, match="reach has 3 axes, and the network is 2D"):
        model(Anisotropic(), dim=2, reach=ANISOTROPIC)
