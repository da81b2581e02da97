"""The article's table, and counting without building."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
import torch

from unetari.core.config import UP_MODES, UNetConfig
from unetari.errors import ShapeError
from unetari.model.summary import count_parameters, summarize
from unetari.model.unet import UNet


def test_table_of_the_article() -> None:
    table = summarize(UNetConfig(), (1, 512, 512))
    counts = [layer.num_params for layer in table.summary_list if layer.is_leaf_layer]
    assert [count for count in counts if count][:6] == [320, 64, 9248, 64, 18496, 128]
    assert table.total_params == 1_971_554
    for text in ("320", "9,248", "64", "[1, 32, 512, 512]", "Total params: 1,971,554"):
        assert text in str(table)


def test_summary_leaves_the_network_alone() -> None:
    network = UNet(n_blocks=2, start_filters=2, dim=3).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    summarize(network, (1, 4, 8, 8))
    assert network.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_summary_of_a_huge_image_allocates_nothing() -> None:
    table = summarize(UNetConfig(dim=3), (1, 4096, 4096, 4096))
    assert "4096, 4096, 4096" in str(table)


@pytest.mark.parametrize("shape", [(3, 512, 512), (1, 511, 512), (512, 512), (1, 0, 16)])
def test_summary_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        summarize(UNetConfig(), shape)


@pytest.mark.parametrize(("dim", "up_mode"), [(d, m) for d in UP_MODES for m in UP_MODES[d]])
def test_count_agrees_with_the_network(dim: int, up_mode: str) -> None:
    for normalization, n_blocks in product(["none", "batch", "instance", "group2"], [1, 2, 4]):
        config = UNetConfig(
            in_channels=3,
            out_channels=5,
            n_blocks=n_blocks,
            start_filters=6,
            normalization=normalization,
            dim=dim,
            up_mode=up_mode,
        )
        with torch.device("meta"):
            network = UNet(config)
        assert count_parameters(config) == sum(p.numel() for p in network.parameters())


def test_counting_needs_no_torch() -> None:
    code = (
        "import sys; from unetari.core.config import UNetConfig;"
        "from unetari.model.summary import count_parameters; count_parameters(UNetConfig());"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
