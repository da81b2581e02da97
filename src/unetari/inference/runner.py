"""`Runner`: one network on one device."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import inf, isfinite
from typing import Any, Literal, TypeAlias, TypeVar, cast
from weakref import ref

import torch
from torch import Tensor, nn

from unetari.core.config import UNetConfig
from unetari.core.network import reach_of
from unetari.errors import Cancelled, DeviceError, as_sentence
from unetari.inference.layer import Layer
from unetari.inference.lean import LeanUNet
from unetari.inference.shortage import attempt
from unetari.inference.stream import Stream, crop
from unetari.model.unet import UNet

Result = TypeVar("Result")
Network = TypeVar("Network", bound=nn.Module)
Pass: TypeAlias = "Stream | _Whole"
"""A pass over a batch of images, as far as it has come."""

Precision = Literal["float32", "tf32", "bf16", "fp16"]
"""Floating-point format of a network: tf32 rounds the factors of float32 to 10 bits."""

_DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_AGREEMENT = 1e-5
_AS_FAR = 3  # times as far from the true numbers as the plain network may the lean one be
_LEAST_ROWS = 8  # for `Winograd` to have a part in the comparison
_UNABLE = ("MPS", "unable to find an engine", "no kernel image")
"""What torch says of a device that lacks something."""
_NOT_LEAN = (
    "The network runs as it is, more slowly: the fast way gave other numbers on this device."
)


class Runner:
    """Runs a private copy of a network; the user's own stays where it is.

    A `UNet` runs as a `LeanUNet`, once that was seen to give the same numbers on
    this device.

    Parameters
    ----------
    network : nn.Module
        Takes (N, C, [Z,] Y, X) and gives logits (N, classes, [Z,] Y, X).
    device : torch.device
        Where to run it.
    should_stop : callable
        Asked before every 3x3 convolution, so that a run ends within one layer.
    frozen : bool
        Whether instance and group normalization of a `UNet` take their statistics
        from what `freeze` gets, or `gather`, instead of from each image.

    Raises
    ------
    DeviceError
        If `frozen` is asked for and the network cannot run as a `LeanUNet`.
    OutOfMemoryError
        If the device has too little memory for the network.
    Cancelled
        If `should_stop` said so.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        should_stop: Callable[[], bool],
        *,
        frozen: bool = False,
    ) -> None:
        self.device = device
        self.precision: Precision = "float32"
        self.notes: tuple[str, ...] = ()
        """What the user should know of how the network is run."""
        self.should_stop = should_stop
        self.is_frozen = frozen
        """Whether statistics of normalization are kept."""
        self.fingerprint = fingerprint(network) if isinstance(network, UNet) else ""
        """That of the network that was copied."""
        self._original = network
        self._innermost = True
        lean = self._find_lean(network) if isinstance(network, UNet) else None
        self._network: LeanUNet | Plain = (
            self._watch(Plain(copy.deepcopy(network))) if lean is None else lean
        )

    def in_precision(self, precision: Precision) -> Runner:
        """Return a runner of the same network in another format; only for a lean `UNet`."""
        other = copy.copy(self)
        other.precision = precision
        other._network = other._make_lean(cast("UNet", self._original))
        return other

    @property
    def is_lean(self) -> bool:
        """Whether the network runs as a `LeanUNet`."""
        return isinstance(self._network, LeanUNet)

    def _make_lean(self, network: UNet) -> LeanUNet:
        lean = LeanUNet(network, frozen=self.is_frozen, innermost=self._innermost)
        return self._watch(lean.to(_DTYPES[self.precision]))

    def _watch(self, network: Network) -> Network:
        """Bring a network to the device, and have it ask before every layer whether to stop."""
        owner = ref(self)  # else the network would keep its runner, and both be freed late

        def check(*_: Any) -> None:
            runner = owner()
            if runner is not None and runner.should_stop():
                raise Cancelled("Stopped on request.")

        for module in network.modules():
            if isinstance(module, Layer) or not list(module.children()):
                module.register_forward_pre_hook(check)
        return attempt(lambda: network.to(self.device).eval(), self._describe_network)

    def _describe_network(self) -> str:
        return f"The network does not fit on {self.device}. Free memory, or use another device."

    def _find_lean(self, network: UNet) -> LeanUNet | None:
        """Return a lean network that gives the numbers of the plain one, or None."""
        # Metal's 3D convolutions would bring everything into the other format first.
        if self.device.type != "mps" or network.config.dim == 2:
            with contextlib.suppress(DeviceError):
                if lean := self._try_lean(network):
                    return lean
        self._innermost = False
        if lean := self._try_lean(network):
            return lean
        if self.is_frozen:
            raise DeviceError(
                f'Only norm_statistics="tile" is possible on {self.device}. {_NOT_LEAN}'
            )
        self.notes = (_NOT_LEAN,)
        return None

    def _try_lean(self, network: UNet) -> LeanUNet | None:
        """Return a lean network in the format that was chosen, if it gives the right numbers."""
        lean = trial = self._make_lean(network)
        twin = _small(network)
        if twin is not network or self.is_frozen:
            trial = self._make_lean(twin)

        def compare() -> bool:
            is_there = next(twin.parameters()).device.type == self.device.type == "cpu"
            is_ready = is_there and not any(module.training for module in twin.modules())
            plain = twin if is_ready else copy.deepcopy(twin).to(self.device).eval()
            return agree(trial, Plain(plain), twin.config)

        return lean if self._attempt(compare, self._describe_network) else None

    def freeze(self, images: Tensor) -> None:
        """Take the statistics of normalization from images, (N, C, [Z,] Y, X), on the device.

        Raises
        ------
        OutOfMemoryError
            If the device has too little memory for them.
        Cancelled
            If `should_stop` said so.
        """

        def compute() -> None:
            cast("LeanUNet", self._network).freeze(images.to(_DTYPES[self.precision]))

        def describe() -> str:
            what = "What the statistics of normalization are taken from,"
            advice = "Free memory, use another device, or leave norm_statistics out."
            return f"{self._too_large(what, images.shape)} {advice}"

        self._attempt(compute, describe)

    def gather(self) -> Iterator[None]:
        """Take the statistics of normalization from one image, as `LeanUNet.gather` does."""
        return cast("LeanUNet", self._network).gather()

    @property
    def takes_strips(self) -> bool:
        """Whether an image may come strip by strip."""
        return isinstance(self._network, LeanUNet) and self._network.tiles_exactly

    def start(self, sizes: Sequence[int], part: Sequence[slice] | None = None) -> Pass:
        """Begin with a batch of images.

        Parameters
        ----------
        sizes : sequence of int
            Their size, ([Z,] Y, X).
        part : sequence of slice, optional
            The part of the output that is needed, ([Z,] Y, X), start and stop given;
            default: everything.

        Returns
        -------
        object
            For `push`.
        """
        return self._network.stream(sizes, part)

    def push(
        self, started: Pass, rows: Tensor, decide: Callable[[int, Tensor], Result]
    ) -> Iterator[list[Result]]:
        """Compute what follows from the next rows of a batch.

        Parameters
        ----------
        started : object
            From `start`.
        rows : Tensor, (N, C, [Z,] Y, X)
            Normalized intensities on the device, float32; all rows at once unless
            `takes_strips`.
        decide : callable
            Turns the next rows of the needed logits of an image, given its number in the
            batch and float32 (classes, [Z,] Y, X) on the device, into a result.

        Yields
        ------
        list
            What `decide` returns, for every image. Nothing if further rows are needed first.

        Raises
        ------
        OutOfMemoryError
            If the device has too little memory.
        Cancelled
            If `should_stop` said so.
        """

        def begin() -> Iterator[Tensor]:
            return started.push(rows.to(_DTYPES[self.precision]))

        def advance() -> list[list[Result]]:
            return [
                [decide(number, image.float()) for number, image in enumerate(scores)]
                for scores in islice(new, 1)
            ]

        what = partial(self._too_large, "A tile of", rows.shape[2:])
        new = self._attempt(begin, what)
        while results := self._attempt(advance, what):
            yield from results

    def _too_large(self, what: str, shape: Sequence[int]) -> str:
        sizes = " x ".join(map(str, shape))
        return f"{what} {sizes} voxels does not fit on {self.device}."

    def _attempt(self, compute: Callable[[], Result], describe: Callable[[], str]) -> Result:
        """Compute something without gradients, as the precision says."""
        try:
            with torch.inference_mode(), _rounding(self.device, self.precision):
                return attempt(compute, describe)
        except (RuntimeError, TypeError) as error:
            if self.device.type == "cpu" or not _is_unable(error):
                raise
            reason = as_sentence(str(error).strip().split("\n")[0].split(". ")[0])
            raise DeviceError(
                f"{self.device} cannot run this network with torch {torch.__version__}: {reason} "
                'Use device="cpu", or another version of torch.'
            ) from error

    def rest(self) -> None:
        """Let go of what is only needed while it runs, and easily had again."""
        self.should_stop = lambda: False
        for module in self._network.modules():
            if isinstance(module, Layer):
                module.forget()

    def give_back(self) -> None:
        """Give memory that nothing uses any more back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def fingerprint(network: nn.Module) -> str:
    """Return a hash of the layers of a network and of their weights."""
    digest = hashlib.sha256(nn.Module.__repr__(network).encode())
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _is_unable(error: Exception) -> bool:
    """Whether torch says that a device lacks what a network needs."""
    is_missing = isinstance(error, NotImplementedError)
    return is_missing or any(phrase in str(error) for phrase in _UNABLE)


class Plain(nn.Module):
    """A network as it is, of which a part of the output is taken."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def stream(self, sizes: Sequence[int], part: Sequence[slice] | None = None) -> _Whole:
        """Return a pass over one image, which has to come in one piece."""
        del sizes
        return _Whole(self, part)

    def forward(self, x: Tensor, part: Sequence[slice] | None = None) -> Tensor:
        """Compute the scores, (N, classes, [Z,] Y, X), of a part of the output."""
        scores: Tensor = self.network(x)
        return scores if part is None else crop(scores, part)


class _Whole:
    """A pass of a plain network over one image."""

    def __init__(self, network: Plain, part: Sequence[slice] | None) -> None:
        self._network, self._part = network, part

    def push(self, x: Tensor) -> Iterator[Tensor]:
        yield self._network(x, self._part)


def _small(network: UNet) -> UNet:
    """Return a network of the same weights that takes small images, too."""
    config = network.config
    if config.conv_mode == "same":
        return network
    twin = UNet(config.replace(conv_mode="same"))
    twin.load_state_dict(network.state_dict())
    return twin.eval()


def agree(lean: LeanUNet, plain: Plain, config: UNetConfig) -> bool:
    """Whether two ways to run a network give the same numbers, but for rounding.

    They are compared on a small image of which a part can be taken, which the lean
    network gets at once, if it can in strips, and on a CPU with `Winograd` where there are
    rows enough.
    """
    rules = [reach.rule for reach in reach_of(config)]
    sizes = [rule.above(max(rule.smallest + 1, _LEAST_ROWS)) for rule in rules]
    part = [slice(size // 4, size - size // 4) for size in sizes]
    device = next(plain.parameters()).device
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (1, config.in_channels, *sizes)
    image = torch.randn(shape, generator=generator, device="cpu").to(device)
    expected = plain(image, part)
    if lean.is_frozen:
        lean.freeze(image)  # of one image, the statistics are those of the plain pass
    found = [lean(image, part)]
    if lean.tiles_exactly:
        found.append(_in_strips(lean, image, part))
    if device.type == "cpu":
        with lean.all_by_winograd():
            found.append(lean(image, part))
    tolerance = _AGREEMENT * (1 + float(expected.abs().max()))
    if _distance(found, expected) <= tolerance:
        return True
    # Statistics of the few voxels on the deepest level can make more of rounding.
    true = copy.deepcopy(plain).cpu().double()(image.cpu().double(), part)
    return _distance(found, true) <= tolerance + _AS_FAR * _distance([expected], true)


def _in_strips(lean: LeanUNet, image: Tensor, part: Sequence[slice]) -> Tensor:
    sizes = image.shape[2:]
    stream = lean.stream(sizes, part)
    strips = image.split(max(sizes[0] // 3, 1), dim=2)  # type: ignore[no-untyped-call]
    return torch.cat([rows for strip in strips for rows in stream.push(strip)], dim=2)


def _distance(found: Sequence[Tensor], expected: Tensor) -> float:
    """Return the largest difference; infinite if something is not finite."""
    # First there, then as float64: Metal has none.
    there = [each.to(expected.device).to(expected.dtype) for each in found]
    difference = max(float((each - expected).abs().max()) for each in there)
    return difference if isfinite(difference) else inf


@contextlib.contextmanager
def _rounding(device: torch.device, precision: Precision) -> Iterator[None]:
    """Keep cuDNN from rounding float32 convolutions to tf32, which would break exactness."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    if not hasattr(cudnn, "conv"):  # torch before 2.9
        with cudnn.flags(enabled=True, allow_tf32=precision == "tf32"):
            yield
        return
    # The older flag says nothing once somebody has used the newer one, and raises an error.
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision = before
