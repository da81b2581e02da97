"""How a network is run on its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unetari import UNetConfig
from unetari.errors import DeviceError, OutOfMemoryError
from unetari.inference import runner
from unetari.inference.lean import LeanUNet
from unetari.inference.runner import Plain, Precision, Runner, _rounding, agree
from unetari.inference.shortage import attempt
from unetari.model.unet import UNet

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


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA driver error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9.07 GB)",
        "Invalid buffer size: 9.75 GB",
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_does_not_suffice_in_the_words_of_every_device(text: str) -> None:
    def compute() -> None:
        raise RuntimeError(text)

    with pytest.raises(OutOfMemoryError, match="It does not fit"):
        attempt(compute, lambda: "It does not fit.")


def test_another_error_is_none_of_memory() -> None:
    def compute() -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM")

    with pytest.raises(RuntimeError, match="BAD_PARAM"):
        attempt(compute, lambda: "It does not fit.")


class Failing(nn.Module):
    """A network that a device cannot run."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self._error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            NotImplementedError(
                "The operator 'aten::max_pool3d_with_indices' is not currently implemented for "
                "the MPS device. If you want this op to be considered for addition please comment"
            ),
            "is not currently implemented for the MPS device. Use device=",
        ),
        (RuntimeError("ConvTranspose 3D is not supported on MPS"), "not supported on MPS. Use"),
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            "this computation. Use",
        ),
        (
            TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework"),
            "the MPS framework. Use",
        ),
    ],
)
def test_what_a_device_cannot_run_is_said(error: Exception, reason: str) -> None:
    device = torch.device("meta")
    running = Runner(Failing(error), device, lambda: False)
    image = torch.zeros(1, 1, 8, 8, device=device)
    with pytest.raises(DeviceError, match=reason):
        list(running.push(running.start((8, 8)), image, lambda _, scores: scores))


def test_an_error_of_the_network_itself_stays_as_it_is() -> None:
    for device, error in (("meta", RuntimeError("odd")), ("cpu", NotImplementedError("odd"))):
        running = Runner(Failing(error), torch.device(device), lambda: False)
        image = torch.zeros(1, 1, 8, 8, device=device)
        with pytest.raises(type(error), match="odd"):
            list(running.push(running.start((8, 8)), image, lambda _, scores: scores))


@pytest.mark.parametrize("error", [None, DeviceError("No engine.")])
def test_channels_are_innermost_only_where_that_works(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    formats: list[torch.memory_format] = []

    def compare(lean: LeanUNet, *_: Any) -> bool:
        formats.append(lean.memory_format)
        if error is not None and len(formats) == 1:
            raise error
        return len(formats) == 2

    monkeypatch.setattr(runner, "agree", compare)
    network = UNet(UNetConfig(n_blocks=2, start_filters=2)).eval()
    running: Any = Runner(network, torch.device("cpu"), lambda: False)
    assert formats == [torch.channels_last, torch.contiguous_format]
    assert running.is_lean
    assert not running.notes
    assert running.in_precision("bf16")._network.memory_format == torch.contiguous_format


def test_the_comparison_needs_no_float64_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal has none, and converts before it copies."""
    network = UNet(UNetConfig(n_blocks=2, start_filters=2)).eval()
    to = Tensor.to

    def like_metal(self: Tensor, *wanted: Any, **options: Any) -> Tensor:
        converted = to(self, *wanted, **options)
        alone = len(wanted) == 1 and isinstance(wanted[0], torch.dtype)
        if not alone and self.dtype != converted.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return converted

    monkeypatch.setattr(Tensor, "to", like_metal)
    monkeypatch.setattr(runner, "_AGREEMENT", 0.0)
    with torch.inference_mode():
        assert agree(LeanUNet(network), Plain(network), network.config) in (True, False)


@pytest.mark.parametrize(("device", "dim", "is_innermost"), [
    ("meta", 3, True), ("mps", 2, True), ("mps", 3, False),
])  # fmt: skip
def test_volumes_keep_the_format_that_metal_convolves_in(
    monkeypatch: pytest.MonkeyPatch, device: str, dim: Any, is_innermost: bool
) -> None:
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(runner, "agree", lambda *_: True)
    network = UNet(UNetConfig(dim=dim, n_blocks=2, start_filters=2)).eval()
    running: Any = Runner(network, torch.device(device), lambda: False)
    contiguous = running._network.memory_format == torch.contiguous_format
    assert contiguous != is_innermost
