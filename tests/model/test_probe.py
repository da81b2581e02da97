"""What probing finds is what is known of the network: its sizes, its reach, its exactness."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unetari.core.config import UP_MODES, UNetConfig
from unetari.core.sizes import Reach, SizeRule
from unetari.errors import Cancelled, NetworkError, UnetariError
from unetari.model.notes import Detail
from unetari.model.probe import Probe, probe_network
from unetari.model.unet import UNet


def probe(network: Callable[[Tensor], Tensor], dim: int = 2, in_channels: int = 1) -> Probe:
    if isinstance(network, nn.Module):
        network.eval()
    return probe_network(network, dim=dim, in_channels=in_channels)


def same(multiple: int, halo: int, smallest: int | None = None) -> Reach:
    return Reach(SizeRule(multiple, smallest or multiple, 0), halo)


def valid(multiple: int, smallest: int, loss: int) -> Reach:
    return Reach(SizeRule(multiple, smallest, loss), 0)


# --- networks of other people -------------------------------------------------------


class Pooled(nn.Module):
    """Pooling by any factors, and no check of sizes: odd ones are padded or cropped inside."""

    def __init__(self, *pools: tuple[int, ...], kernel: tuple[int, ...], pads: bool = True) -> None:
        super().__init__()
        dim, channels = len(kernel), 4
        conv: type[nn.Module] = nn.Conv2d if dim == 2 else nn.Conv3d
        up: type[nn.Module] = nn.ConvTranspose2d if dim == 2 else nn.ConvTranspose3d
        self.pools = pools
        padding = tuple(k // 2 for k in kernel) if pads else 0
        ins = (1, *[channels] * len(pools))
        self.down = nn.ModuleList(conv(i, channels, kernel, padding=padding) for i in ins)
        self.ups = nn.ModuleList(up(channels, channels, pool, pool) for pool in reversed(pools))
        self.merge = nn.ModuleList(
            conv(2 * channels, channels, kernel, padding=padding) for _ in pools
        )
        self.final = conv(channels, 2, 1)
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        pool = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
        skips = []
        for level, down in enumerate(self.down):
            x = down(pool(x, self.pools[level - 1]) if level else x).relu()
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.ups, self.merge, strict=True):
            x, skip = up(x), skips.pop()
            for axis in range(2, x.ndim):
                excess = skip.shape[axis] - x.shape[axis]
                if self.pads:
                    pads = [0, 0] * (x.ndim - axis - 1) + [excess // 2, excess - excess // 2]
                    x = functional.pad(x, pads)
                else:
                    skip = skip.narrow(axis, excess // 2, x.shape[axis])
            x = merge(torch.cat((x, skip), dim=1)).relu()
        scores: Tensor = self.final(x)
        return scores


class PadsInside(nn.Module):
    """Pads every image to a multiple by itself, and crops the result."""

    def __init__(self, network: nn.Module, multiple: int, mode: str) -> None:
        super().__init__()
        self.network, self.multiple, self.mode = network, multiple, mode

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        pads = (0, -width % self.multiple, 0, -height % self.multiple)
        scores: Tensor = self.network(functional.pad(x, pads, mode=self.mode))
        return scores[..., :height, :width]


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        gated: Tensor = self.last(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())
        return gated


class Attention(nn.Module):
    """Patches of 4 x 4 that attend to each other."""

    def __init__(self, knows_position: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 4, stride=4)
        self.attend = nn.Linear(8, 24)
        self.expand = nn.ConvTranspose2d(8, 2, 4, stride=4)
        self.knows_position = knows_position

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x)
        tokens = patches.flatten(2).transpose(1, 2)
        if self.knows_position:
            tokens = tokens + torch.linspace(0, 1, tokens.shape[1])[:, None]
        query, key, value = self.attend(tokens).chunk(3, dim=-1)
        tokens = tokens + functional.scaled_dot_product_attention(query, key, value)
        scores: Tensor = self.expand(tokens.transpose(1, 2).reshape(patches.shape))
        return scores


class AlignsCorners(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = functional.max_pool2d(self.first(x), 2)
        fine = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=True)
        scores: Tensor = self.last(fine)
        return scores


class OnlySize(nn.Module):
    """Takes one size, as networks exported with fixed axes do."""

    def __init__(self, network: nn.Module, *size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise OSError(f"expected {self.size}, got {tuple(x.shape[2:])}")
        scores: Tensor = self.network(x)
        return scores


class Changed(nn.Module):
    """A plain network whose output is changed by a function."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network = plain()
        self.change = change

    def forward(self, x: Tensor) -> object:
        return self.change(self.network(x))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 5, padding=2), nn.LeakyReLU(0.1)
    )


def dilated() -> nn.Module:
    layers = (nn.Conv2d(i, 2, 3, padding=d, dilation=d) for i, d in ((1, 1), (2, 6), (2, 40)))
    return nn.Sequential(*layers)


def strided() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 4, stride=2, padding=1),
        nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1),
    )


def instance() -> nn.Module:
    norms = (nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU())
    return nn.Sequential(*norms, nn.Conv2d(4, 2, 5, padding=2))


# --- our own networks, of which everything is known ---------------------------------


def check_own(config: UNetConfig) -> None:
    torch.manual_seed(0)
    found = probe(UNet(config), config.dim)
    assert found.exact, found.sentences()
    assert found.reaches == (Reach.of(config),) * config.dim
    assert found.out_channels == config.out_channels


@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize(
    ("n_blocks", "up_mode"),
    [(1, "transposed"), *((2, mode) for mode in UP_MODES[2]), (3, "bicubic")],
)
def test_own_2d(n_blocks: int, up_mode: str, conv_mode: str) -> None:
    options = {"n_blocks": n_blocks, "up_mode": up_mode, "conv_mode": conv_mode}
    check_own(UNetConfig(start_filters=2, **options))


@pytest.mark.parametrize("up_mode", UP_MODES[3])
def test_own_3d(up_mode: str) -> None:
    check_own(UNetConfig(dim=3, n_blocks=2, start_filters=2, up_mode=up_mode))


@pytest.mark.slow
@pytest.mark.parametrize("conv_mode", ["same", "valid"])
@pytest.mark.parametrize("up_mode", UP_MODES[2])
@pytest.mark.parametrize("n_blocks", [3, 4, 5])
def test_own_2d_deep(n_blocks: int, up_mode: str, conv_mode: str) -> None:
    options = {"n_blocks": n_blocks, "up_mode": up_mode, "conv_mode": conv_mode}
    check_own(UNetConfig(start_filters=2, **options))


@pytest.mark.slow
@pytest.mark.parametrize("up_mode", UP_MODES[3])
@pytest.mark.parametrize("n_blocks", [1, 3, 4, 5])
def test_own_3d_deep(n_blocks: int, up_mode: str) -> None:
    check_own(UNetConfig(dim=3, n_blocks=n_blocks, start_filters=2, up_mode=up_mode))


@pytest.mark.slow
@pytest.mark.parametrize("up_mode", UP_MODES[3])
@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_own_3d_valid(n_blocks: int, up_mode: str) -> None:
    options = {"n_blocks": n_blocks, "up_mode": up_mode, "conv_mode": "valid"}
    check_own(UNetConfig(dim=3, start_filters=2, **options))


# --- exactly tileable networks of other kinds ---------------------------------------

SQUARE = (3, 3)
EXACT = {
    "plain": (plain, [same(1, 3)] * 2),
    "dilated": (dilated, [same(1, 47)] * 2),
    "reflecting": (
        lambda: nn.Conv2d(1, 2, 7, padding=3, padding_mode="reflect"), [same(1, 3, 4)] * 2
    ),
    "strided": (strided, [same(4, 8)] * 2),
    "even kernels": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 2)), [valid(1, 3, 1)] * 2
    ),
    "pooled by 3 and 2": (lambda: Pooled((3, 2), kernel=SQUARE), [same(3, 9), same(2, 6)]),
    "takes every size": (lambda: Pooled((2, 2), (2, 2), kernel=SQUARE), [same(4, 12)] * 2),
    "valid, takes every size": (
        lambda: Pooled((2, 2), kernel=SQUARE, pads=False), [valid(2, 10, 4)] * 2
    ),
    "pads by reflection": (
        lambda: PadsInside(Pooled((2, 2), kernel=SQUARE), 2, "reflect"), [same(2, 6)] * 2
    ),
    "pads more than it pools": (
        lambda: PadsInside(Pooled((2, 2), kernel=SQUARE), 8, "constant"), [same(8, 8)] * 2
    ),
    "probabilities": (lambda: Changed(lambda y: y.softmax(dim=1)), [same(1, 3)] * 2),
    "anisotropic": (
        lambda: Pooled((1, 2, 2), kernel=(1, 3, 3)), [same(1, 0), same(2, 6), same(2, 6)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_exact_networks(name: str) -> None:
    build, expected = EXACT[name]
    torch.manual_seed(0)
    found = probe(build(), len(expected))
    assert found.exact, found.sentences()
    assert found.reaches == tuple(expected)


def test_the_way_through_layers_that_rest_is_seen() -> None:
    network = Pooled((2, 2), (2, 2), kernel=SQUARE)
    with torch.no_grad():
        network.down[2].get_parameter("bias").fill_(-1e9)  # no image wakes the deepest level
    assert probe(network).reaches == (same(4, 12),) * 2


def test_runtimes_that_swallow_nan() -> None:
    network = Pooled((2, 2), (2, 2), kernel=SQUARE)
    torch.manual_seed(0)
    assert probe(lambda x: network(x.nan_to_num())).reaches == (same(4, 12),) * 2


def test_same_seed_same_probe() -> None:
    network = plain()
    assert probe(network) == probe(network)


def test_sentences_name_what_was_measured() -> None:
    text = " ".join(probe(Pooled((3, 2), kernel=SQUARE)).sentences())
    assert "multiple was measured: Y 3, X 2" in text
    assert "differ by at most" in text


def test_what_leaves_nothing_to_decide_is_a_detail() -> None:
    exact = probe(Pooled((3, 2), kernel=SQUARE))
    assert all(isinstance(sentence, Detail) for sentence in exact.sentences())
    inexact = probe(OnlySize(Pooled((2, 2), (2, 2), (2, 2), kernel=SQUARE), 16, 16))
    urgent = [text for text in inexact.sentences() if not isinstance(text, Detail)]
    assert urgent[-len(inexact.reasons) :] == list(inexact.reasons)


# --- networks of one size -----------------------------------------------------------


def test_one_size_is_tiled_where_it_is_large_enough() -> None:
    found = probe(OnlySize(Pooled((2, 2), kernel=SQUARE), 64, 64))
    assert found.exact, found.sentences()
    assert found.reaches == (Reach(SizeRule(2, 64, 0), 6, largest=64),) * 2


def test_one_size_that_is_too_small_for_tiles() -> None:
    found = probe(OnlySize(Pooled((2, 2), (2, 2), (2, 2), kernel=SQUARE), 16, 16))
    assert not found.exact
    assert {reach.largest for reach in found.reaches} == {16}
    assert "Only one size is taken: 16" in " ".join(found.sentences())


def test_an_unusual_size_must_be_named() -> None:
    network = OnlySize(plain(), 40, 72)
    with pytest.raises(NetworkError, match=r"OSError: expected \(40, 72\).*name a size"):
        probe(network)
    found = probe_network(network, dim=2, in_channels=1, example_shape=(40, 72))
    assert [reach.largest for reach in found.reaches] == [40, 72]
    assert found.exact


# --- networks whose tiles cannot be exact -------------------------------------------


@pytest.mark.parametrize(
    ("build", "multiple", "halo"),
    [(instance, 1, 3), (SqueezeExcite, 1, 2), (Attention, 4, 0)],
    ids=["instance norm", "squeeze and excitation", "attention"],
)
def test_dependence_on_everything(build: Callable[[], nn.Module], multiple: int, halo: int) -> None:
    torch.manual_seed(0)
    found = probe(build())
    assert not found.exact
    assert found.difference.largest > 1e-4 * found.difference.spread
    assert all("depends on everything" in reason for reason in found.reasons)
    assert [(reach.multiple, reach.halo) for reach in found.reaches] == [(multiple, halo)] * 2


@pytest.mark.parametrize("build", [AlignsCorners, lambda: Attention(knows_position=True)])
def test_dependence_on_the_position(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    found = probe(build())
    assert not found.exact
    assert found.difference.largest > 1e-4 * found.difference.spread
    assert any(reason.startswith("No shift of the image") for reason in found.reasons)


# --- networks that cannot be used ---------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "half the resolution": (lambda: nn.Conv2d(1, 2, 3, 2, 1), "0.5 voxels per voxel.*8 gives 4"),
    "twice the resolution": (lambda: nn.ConvTranspose2d(1, 2, 2, 2), "2 voxels per voxel"),
    "one score per image": (
        lambda: Changed(lambda y: y.mean((2, 3), keepdim=True)), "0 voxels per voxel"
    ),
    "uneven loss": (lambda: nn.Conv2d(1, 2, 2), r"gives \d+, a change .*not known"),
    "loss on one side": (
        lambda: nn.Sequential(nn.ZeroPad2d((2, 0, 2, 0)), nn.Conv2d(1, 2, 5)), "off.*by 1 voxels"
    ),
    "larger than the image": (lambda: nn.Conv2d(1, 2, 2, padding=1), r"gives \d+, a change"),
    "tuple": (lambda: Changed(lambda y: (y, y)), "returns a tuple.*Wrap it"),
    "dict": (lambda: Changed(lambda y: {"out": y}), "returns a dict"),
    "labels": (lambda: Changed(lambda y: y.argmax(1, keepdim=True)), "int64.*scores are needed"),
    "vector": (lambda: Changed(lambda y: y.mean((2, 3))), r"\(1, 2\), and \(1, classes, Y, X\)"),
    "NaN": (lambda: Changed(lambda y: y * torch.nan), "NaN or infinite"),
    "constant": (lambda: Changed(torch.zeros_like), "same output whatever the image"),
    "dropout": (lambda: Changed(functional.dropout), "evaluation mode"),
    "wrong channels": (lambda: nn.Conv2d(3, 2, 3), "with 1 channels.*RuntimeError.*3 channels"),
    "wrong dimensions": (lambda: nn.Conv3d(1, 2, 3), "took none of the sizes.*dimensions"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_networks(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(NetworkError, match=message):
        probe(build())


def test_cancelling_is_no_refusal_of_a_size() -> None:
    def cancelled(x: Tensor) -> Tensor:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        probe(cancelled)


def test_the_limit_of_voxels_is_kept() -> None:
    sizes = []

    def network(x: Tensor) -> Tensor:
        sizes.append(x[0, 0].numel())
        raise ValueError("never")

    with pytest.raises(UnetariError, match="ValueError: never"):
        probe_network(network, dim=3, in_channels=1, max_voxels=1000)
    assert max(sizes) <= 1000


def test_the_process_is_left_as_it_was() -> None:
    def fails_on_nan(x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("no NaN, please")
        return x.repeat(1, 2, 1, 1)

    before = torch.backends.mkldnn.enabled, torch.is_grad_enabled(), torch.initial_seed()
    with pytest.raises(NetworkError, match="no NaN"):
        probe(fails_on_nan)
    assert (torch.backends.mkldnn.enabled, torch.is_grad_enabled(), torch.initial_seed()) == before
