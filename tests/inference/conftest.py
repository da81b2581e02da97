"""Small networks with random weights and statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unetari.core.config import UNetConfig
from unetari.core.normalization import Normalization
from unetari.model.checkpoint import Model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    """Build an evaluated network whose batch statistics are not the trivial ones."""

    def make(*, method: str = "none", scope: str = "image", **options: Any) -> Model:
        config = UNetConfig(**{"start_filters": 4, "n_blocks": 3, **options})
        normalization = Normalization(method=method, scope=scope)
        model = Model.build(config, normalization=normalization, seed=0)
        generator = torch.Generator().manual_seed(1)
        for name, buffer in model.network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        model.network.eval()
        return model

    return make
