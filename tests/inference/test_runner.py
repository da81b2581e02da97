"""How a network is run on its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unetari.inference.runner import Precision, _rounding

backends: Any = torch.backends
cudnn = backends.cudnn


@pytest.fixture
def settings() -> Any:
    """Put back what a test sets of torch's formats."""
    before = backends.fp32_precision, cudnn.fp32_precision, cudnn.conv.fp32_precision
    yield
    backends.fp32_precision, cudnn.fp32_precision, cudnn.conv.fp32_precision = before


def _nothing() -> None:
    pass


def _by_flag() -> None:
    cudnn.allow_tf32 = True


def _for_all() -> None:
    backends.fp32_precision = "tf32"


def _for_convolutions() -> None:
    cudnn.conv.fp32_precision = "ieee"


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="torch before 2.9")
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("choose", [_nothing, _by_flag, _for_all, _for_convolutions])
@pytest.mark.parametrize(("precision", "inside"), [("float32", "ieee"), ("tf32", "tf32")])
def test_convolutions_round_as_the_run_says_whatever_the_user_set(
    choose: Callable[[], None], precision: Precision, inside: str
) -> None:
    choose()
    before = cudnn.conv.fp32_precision
    with _rounding(torch.device("cuda"), precision):
        assert cudnn.conv.fp32_precision == inside
    assert cudnn.conv.fp32_precision == before
