"""elektronn3: networks rebuilt from weights give what plain layers and the program give."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from unetari.errors import ConfigError, ModelFileError
from unetari.model.architectures import Rebuilt, elektronn3, find_architecture
from unetari.model.probe import probe_network
from unetari.model.weights import LoadOptions

Weights = dict[str, Tensor]

CONV: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
POOL: dict[int, Any] = {2: F.max_pool2d, 3: F.max_pool3d}
UP_CONV: dict[int, Any] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "silu": F.silu,
    "elu": F.elu,
    "rrelu": lambda x: F.leaky_relu(x, 11 / 48),  # the mean of 1/8 and 1/3
    "linear": lambda x: x,
}


def rebuild(weights: Weights, **options: Any) -> Rebuilt:
    return elektronn3.rebuild(weights, LoadOptions(**options))


def multiples(rebuilt: Rebuilt) -> tuple[int, ...]:
    return tuple(reach.multiple for reach in rebuilt.config.reach)


def run(rebuilt: Rebuilt, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = rebuilt.network(x)
    return scores


def close(scores: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05  # equal constants would say nothing
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


class Maker:
    """Draws weights as the program names them: the same for the same options."""

    def __init__(
        self,
        dim: int = 3,
        *,
        up: str = "upconv",
        resize: int = 3,
        norm: str = "batch",
        full: bool = True,
        adds: bool = False,
        planar: tuple[int, ...] = (),
        gate: bool = False,
        prelu: bool = False,
        old: bool = False,
    ) -> None:
        self.dim, self.up, self.resize, self.norm, self.full = dim, up, resize, norm, full
        self.adds, self.planar, self.gate, self.prelu, self.old = adds, planar, gate, prelu, old
        self.weights: Weights = {}
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, positive: bool = False) -> None:
        tensor = torch.randn(shape, generator=self.generator)
        fan = max(1, tensor[0].numel())
        self.weights[name] = tensor.abs() + 0.5 if positive else tensor * (1.4 / fan**0.5)

    def conv(self, name: str, *channels: int, size: int = 1, planar: bool = False) -> None:
        n_in, n_out = channels
        kernel = (1 if planar else size, *[size] * (self.dim - 1))
        self.draw(f"{name}.weight", n_out, n_in, *kernel)
        self.draw(f"{name}.bias", n_out)

    def norm_layer(self, name: str, channels: int, *, norm: str) -> None:
        if norm not in ("batch", "group"):
            return
        self.draw(f"{name}.weight", channels, positive=True)
        self.draw(f"{name}.bias", channels)
        if norm == "batch":
            self.draw(f"{name}.running_mean", channels)
            self.draw(f"{name}.running_var", channels, positive=True)
            self.weights[f"{name}.num_batches_tracked"] = torch.tensor(3)

    def block(self, name: str, n_in: int, n_out: int, *, planar: bool, norms: int) -> None:
        self.conv(f"{name}.conv1", n_in, n_out, size=3, planar=planar)
        self.conv(f"{name}.conv2", n_out, n_out, size=3, planar=planar)
        for index in range(3 - norms, 3) if self.prelu else ():
            self.weights[f"{name}.act{index}.weight"] = torch.tensor([0.3])
        for index in range(norms):
            if (self.full or index == norms - 1) and not self.old:
                self.norm_layer(f"{name}.norm{index}", n_out, norm=self.norm)
        if self.old:
            self.norm_layer(f"{name}.bn", n_out, norm=self.norm)

    def attention(self, name: str, channels: int) -> None:
        half = channels // 2
        self.conv(f"{name}.w.0", channels, channels)
        self.norm_layer(f"{name}.w.1", channels, norm="batch")
        self.draw(f"{name}.theta.weight", half, channels, *[2] * self.dim)
        self.conv(f"{name}.phi", 2 * channels, half)
        self.conv(f"{name}.psi", half, 1)

    def make(self, blocks: int = 3, start: int = 8, n_in: int = 1, n_out: int = 2) -> Weights:
        channels = n_in
        for level in range(blocks):
            n = start * 2**level
            planar = level in self.planar
            self.block(f"down_convs.{level}", channels, n, planar=planar, norms=2)
            channels = n
        for index, level in enumerate(reversed(range(blocks - 1))):
            name, n, planar = f"up_convs.{index}", channels // 2, level in self.planar
            self.upsampling(f"{name}.{self.up}", channels, planar=planar)
            self.block(name, n if self.adds else channels, n, planar=planar, norms=3)
            if self.gate:
                self.attention(f"{name}.attention", n)
            channels = n
        self.conv("conv_final", channels, n_out)
        return self.weights

    def upsampling(self, name: str, channels: int, *, planar: bool) -> None:
        if self.up == "upconv":
            kernel = (1 if planar else 2, *[2] * (self.dim - 1))
            self.draw(f"{name}.weight", channels, channels // 2, *kernel)
            self.draw(f"{name}.bias", channels // 2)
        else:
            size = self.resize if self.up == "upconv.conv" else 1
            self.conv(name, channels, channels // 2, size=size, planar=planar)


# The published network in plain functions


class Reference:
    def __init__(
        self,
        weights: Weights,
        *,
        activation: str = "relu",
        mode: str = "nearest",
        instance: bool = False,
        full: bool = True,
        valid: bool = False,
        groups: int = 8,
    ) -> None:
        self.w, self.activation, self.mode, self.groups = weights, activation, mode, groups
        self.instance, self.full, self.valid = instance, full, valid
        self.old = "down_convs.0.bn.weight" in weights or "up_convs.0.upconv.1.weight" in weights

    def conv(self, name: str, x: Tensor, *, padded: bool) -> Tensor:
        kernel = self.w[f"{name}.weight"]
        padding = [n // 2 if padded else 0 for n in kernel.shape[2:]]
        result: Tensor = CONV[x.ndim - 2](x, kernel, self.w.get(f"{name}.bias"), padding=padding)
        return result

    def act(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" in self.w:
            return F.prelu(x, self.w[f"{name}.weight"])
        return ACTIVATIONS[self.activation](x)

    def norm(self, name: str, x: Tensor, *, last: bool = False) -> Tensor:
        if f"{name}.running_mean" in self.w:
            mean, var = self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"]
            return F.batch_norm(x, mean, var, self.w[f"{name}.weight"], self.w[f"{name}.bias"])
        if f"{name}.weight" in self.w:
            return F.group_norm(x, self.groups, self.w[f"{name}.weight"], self.w[f"{name}.bias"])
        return F.instance_norm(x) if self.instance and (last or self.full) else x

    def two(self, name: str, x: Tensor, first: int) -> Tensor:
        for index in (1, 2):
            x = self.conv(f"{name}.conv{index}", x, padded=not self.valid)
            x = self.norm(f"{name}.norm{first + index - 1}", x, last=index == 2)
            x = self.act(f"{name}.act{index}", x)
        return self.norm(f"{name}.bn", x) if self.old else x

    def upsample(self, name: str, x: Tensor, factor: list[int]) -> Tensor:
        if f"{name}.weight" in self.w:
            weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
            result: Tensor = UP_CONV[x.ndim - 2](x, weight, bias, stride=factor)
            return result
        x = F.interpolate(x, scale_factor=[float(n) for n in factor], mode=self.mode)
        return self.conv(f"{name}.{1 if self.old else 'conv'}", x, padded=True)

    def attention(self, name: str, skip: Tensor, gate: Tensor) -> Tensor:
        if f"{name}.psi.weight" not in self.w:
            return skip
        mode = LINEAR[skip.ndim - 2]
        theta = CONV[skip.ndim - 2](skip, self.w[f"{name}.theta.weight"], stride=2)
        phi = F.interpolate(self.conv(f"{name}.phi", gate, padded=True), theta.shape[2:], mode=mode)
        weight = torch.sigmoid(self.conv(f"{name}.psi", F.relu(theta + phi), padded=True))
        weight = F.interpolate(weight, skip.shape[2:], mode=mode)
        return self.norm(f"{name}.w.1", self.conv(f"{name}.w.0", skip * weight, padded=True))

    def __call__(self, x: Tensor) -> Tensor:
        skips, factors = [], []
        blocks = len({name.split(".")[1] for name in self.w if name.startswith("down_convs.")})
        for level in range(blocks):
            x = self.two(f"down_convs.{level}", x, 0)
            skips.append(x)
            kernel = self.w[f"down_convs.{level}.conv1.weight"].shape[2:]
            factors.append([2 if n == 3 else 1 for n in kernel])
            if level < blocks - 1:
                x = POOL[x.ndim - 2](x, factors[-1], ceil_mode=True)
        for index in range(blocks - 1):
            x = self.up(f"up_convs.{index}", skips[-2 - index], x, factors[-2 - index])
        return self.conv("conv_final", x, padded=True)

    def up(self, name: str, skip: Tensor, x: Tensor, factor: list[int]) -> Tensor:
        up = self.upsample(f"{name}.upconv", x, factor)
        for axis in range(2, x.ndim):
            up = up.narrow(axis, 0, up.shape[axis] - (up.shape[axis] - skip.shape[axis]) % 2)
            excess = skip.shape[axis] - up.shape[axis]
            skip = skip.narrow(axis, excess // 2, up.shape[axis])
        skip = self.attention(f"{name}.attention", skip, x)
        up = self.norm(f"{name}.norm0", up)
        if not self.old or f"{name}.upconv.weight" in self.w:
            up = self.act(f"{name}.act0", up)
        adds = self.w[f"{name}.conv1.weight"].shape[1] == up.shape[1]
        return self.two(name, up + skip if adds else torch.cat((up, skip), 1), 1)


def image(dim: int) -> Tensor:
    shape = (2, 1, 8, 12, 16) if dim == 3 else (2, 1, 24, 28)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# Every option


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms(norm: str, full: bool, dim: int) -> None:
    weights = Maker(dim, norm=norm, full=full).make()
    rebuilt = rebuild(weights)
    close(run(rebuilt, image(dim)), Reference(weights)(image(dim)))
    config = rebuilt.config
    assert config.architecture == "UNet of elektronn3"
    assert (config.dim, config.in_channels, config.out_channels) == (dim, 1, 2)
    assert multiples(rebuilt) == (4,) * dim
    assert config.tiles_exactly == (norm == "batch")
    assert config.classes == "exclusive"


@pytest.mark.parametrize("full", [True, False])
def test_instance_norm_must_be_said(full: bool) -> None:
    weights = Maker(2, norm="none").make()
    close(run(rebuild(weights), image(2)), Reference(weights)(image(2)))
    rebuilt = rebuild(weights, normalization="instance", full_norm=full)
    close(run(rebuilt, image(2)), Reference(weights, instance=True, full=full)(image(2)))
    assert not rebuilt.config.tiles_exactly


def test_number_of_groups() -> None:
    weights = Maker(2, norm="group").make()
    rebuilt = rebuild(weights, normalization="group4")
    close(run(rebuilt, image(2)), Reference(weights, groups=4)(image(2)))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("resize", [1, 3])
@pytest.mark.parametrize("linear", [True, False])
def test_resize_convolution(linear: bool, resize: int, dim: int) -> None:
    mode = LINEAR[dim] if linear else "nearest"
    weights = Maker(dim, up="upconv.conv", resize=resize).make()
    rebuilt = rebuild(weights, up_mode=mode)
    close(run(rebuilt, image(dim)), Reference(weights, mode=mode)(image(dim)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    weights = Maker(2).make()
    rebuilt = rebuild(weights, activation=activation)
    close(run(rebuilt, image(2)), Reference(weights, activation=activation)(image(2)))


def test_learned_activations() -> None:
    weights = Maker(2, prelu=True).make()
    rebuilt = rebuild(weights)
    close(run(rebuilt, image(2)), Reference(weights)(image(2)))
    assert not any("activation" in note for note in rebuilt.notes)


def test_summed_skips() -> None:
    weights = Maker(3, adds=True).make()
    close(run(rebuild(weights), image(3)), Reference(weights)(image(3)))


@pytest.mark.parametrize("up", ["upconv", "upconv.conv"])
def test_planar_blocks(up: str) -> None:
    weights = Maker(3, planar=(0,), up=up).make()
    rebuilt = rebuild(weights)
    assert multiples(rebuilt) == (2, 4, 4)
    close(run(rebuilt, image(3)), Reference(weights)(image(3)))


def test_attention() -> None:
    weights = Maker(3, gate=True, planar=(1,)).make()
    rebuilt = rebuild(weights)
    assert rebuilt.config.architecture == "attention UNet of elektronn3"
    assert multiples(rebuilt) == (4, 4, 4)  # z is pooled once and halved once
    close(run(rebuilt, image(3)), Reference(weights)(image(3)))


@pytest.mark.parametrize("up", ["upconv", "upconv.conv"])
def test_valid_convolution(up: str) -> None:
    weights = Maker(2, up=up).make()
    x = torch.randn(1, 1, 60, 61, generator=torch.Generator().manual_seed(1))
    expected = Reference(weights, valid=True)(x)
    assert expected.shape[2] == 20
    close(run(rebuild(weights, conv_mode="valid"), x), expected)


def test_odd_sizes_are_taken_as_the_program_takes_them() -> None:
    weights = Maker(3).make()
    odd = image(3)[..., :7, :9, :13]
    close(run(rebuild(weights), odd), Reference(weights)(odd))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("up", ["upconv", "upconv.1"])
def test_old_networks(up: str, norm: str) -> None:
    weights = Maker(2, up=up, norm=norm, old=True).make()
    close(run(rebuild(weights), image(2)), Reference(weights, mode="bilinear")(image(2)))


def test_one_block() -> None:
    weights = Maker(2).make(blocks=1, n_out=1)
    rebuilt = rebuild(weights)
    close(run(rebuilt, image(2)), Reference(weights)(image(2)))
    assert (multiples(rebuilt), rebuilt.config.classes) == ((1, 1), "independent")


# Against the program itself (elektronn3 0.1.1): mean, deviation, and some values of the logits


def figures(scores: Tensor) -> list[float]:
    flat = scores.flatten()
    samples = flat[:: flat.numel() // 3].tolist()[:4]
    return [scores.mean().item(), scores.std().item(), *samples, flat[-1].item()]


@pytest.mark.parametrize(
    ("made", "options", "expected"),
    [
        ({}, {}, [4.831114, 9.320099, 2.411371, 0.19295, 5.629883, 5.436439]),
        (
            {"norm": "group", "planar": (0,)},
            {},
            [0.36183, 2.912797, -1.955551, 2.878117, -1.943703, 3.713476],
        ),
        (
            {"up": "upconv.conv"},
            {"up_mode": "trilinear"},
            [7.725049, 13.710482, 1.879865, 12.196546, -10.264133, -1.296618],
        ),
        (
            {"adds": True, "prelu": True, "norm": "none"},
            {},
            [-0.513468, 0.827192, -0.286394, 0.640645, -0.75282, -0.231617],
        ),
        (
            {"gate": True, "planar": (1,)},
            {},
            [17.361486, 21.669119, 14.728144, 1.84514, -9.056971, 1.405178],
        ),
        ({"full": False}, {}, [4.570168, 6.500219, 5.455892, -1.730592, 7.162387, -1.172921]),
    ],
    ids=["usual", "planar group", "resize", "sum prelu", "attention", "not full"],
)
def test_networks_as_the_program_has_them(
    made: dict[str, Any], options: dict[str, str], expected: list[float]
) -> None:
    scores = run(rebuild(Maker(3, **made).make(), **options), image(3))
    assert figures(scores) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_valid_convolution_as_the_program_has_it() -> None:
    x = torch.randn(1, 1, 60, 61, generator=torch.Generator().manual_seed(1))
    scores = run(rebuild(Maker(2).make(), conv_mode="valid"), x)
    expected = [2.928308, 6.062915, 8.109951, 0.9084, 2.049017, 23.519093]
    assert figures(scores) == pytest.approx(expected, rel=1e-4, abs=1e-4)


# Sizes and surroundings: derived from the layers, and probed


@pytest.mark.parametrize(
    ("made", "options"),
    [
        ({}, {}),
        ({"up": "upconv.conv"}, {"up_mode": "bilinear"}),
        ({"up": "upconv.conv"}, {"up_mode": "bilinear", "conv_mode": "valid"}),
        ({"gate": True}, {}),
        ({"norm": "none"}, {"normalization": "instance"}),
    ],
    ids=["usual", "resize", "valid", "attention", "instance"],
)
def test_reach_is_what_probing_finds(made: dict[str, Any], options: dict[str, str]) -> None:
    rebuilt = rebuild(Maker(2, **made).make(start=4), **options)
    probe = probe_network(rebuilt.network, dim=2, in_channels=1)
    assert probe.reaches == rebuilt.config.reach
    assert probe.exact == rebuilt.config.tiles_exactly


@pytest.mark.slow
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("planar", [0, 1])
def test_reach_of_planar_blocks(planar: int, gate: bool) -> None:
    rebuilt = rebuild(Maker(3, planar=(planar,), gate=gate).make(start=4))
    assert probe_network(rebuilt.network, dim=3, in_channels=1).reaches == rebuilt.config.reach


# What is said, and what is refused


def test_what_is_assumed_is_said() -> None:
    def assumed(**options: Any) -> list[str]:
        notes = rebuild(Maker(3, **options).make()).notes
        return [note.partition(" is assumed")[0] for note in notes]

    activation, mode, classes = "activation='relu'", "conv_mode='same'", "classes='exclusive'"
    assert assumed() == [activation, mode, classes]
    assert assumed(norm="group") == [activation, "normalization='group8'", mode, classes]
    assert assumed(norm="none") == [activation, "normalization='none'", mode, classes]
    assert assumed(up="upconv.conv") == [activation, mode, "up_mode='nearest'", classes]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"normalization": "group8"}, "contradicts"),
        ({"normalization": "instance"}, "contradicts"),
        ({"up_mode": "nearest"}, "contradicts"),
        ({"full_norm": False}, "contradicts"),
        ({"activation": "prelu"}, "contradicts"),
        ({"layer_order": "cbr"}, "means nothing to this network"),
    ],
)
def test_options_against_the_weights(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        rebuild(Maker().make(), **options)


@pytest.mark.parametrize(
    "part", ["conv_final", "down_convs.1", "down_convs.2", "up_convs.1", "conv2", "norm1", "upconv"]
)
def test_missing_weights(part: str) -> None:
    weights = {name: t for name, t in Maker().make().items() if part not in name}
    with pytest.raises(ModelFileError, match=r"lack|missing|holds|not expected"):
        rebuild(weights)


@pytest.mark.parametrize("name", ["up_convs.2.x", "down_convs.x.y", "down_convs.20.a", "head.a"])
def test_weights_too_many(name: str) -> None:
    with pytest.raises(ModelFileError, match=r"not expected|numbered from 0"):
        rebuild(Maker().make() | {name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv_final.weight", (2, 8)),
        ("conv_final.weight", (0, 8, 1, 1, 1)),
        ("conv_final.weight", ()),
        ("down_convs.0.conv1.weight", (8, 1, 99, 3, 3)),
        ("down_convs.0.conv1.weight", (8, 1, 3, 3)),
        ("down_convs.0.conv1.weight", (100_000, 1, 3, 3, 3)),
        ("down_convs.1.conv1.weight", (16, 8, 5, 5, 5)),
        ("down_convs.1.conv1.weight", (16, 9, 3, 3, 3)),
        ("down_convs.0.norm1.weight", ()),
        ("down_convs.0.norm1.weight", (0,)),
        ("down_convs.0.norm1.weight", (7,)),
        ("up_convs.0.conv1.weight", (16, 33, 3, 3, 3)),
        ("up_convs.0.upconv.weight", (32, 16, 1, 2, 2)),
    ],
)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_impossible_shapes(norm: str, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFileError, match="shape"):
        rebuild(Maker(norm=norm).make() | {name: torch.zeros(shape)})


def test_every_damage_is_refused() -> None:
    generator = random.Random(0)
    whole = Maker(norm="group", gate=True).make()
    for _ in range(150):
        weights = dict(whole)
        for name in generator.sample(sorted(whole), generator.choice((1, 1, 2, 5))):
            tensor = weights.pop(name)
            kind = generator.randrange(4)
            if kind == 0:  # another shape
                sizes = [generator.choice((0, 1, 2, 3, 7, 4096)) for _ in tensor.shape]
                weights[name] = torch.zeros(()).expand(sizes)
            elif kind == 1:  # another number of axes
                weights[name] = tensor[None] if generator.random() < 0.5 else tensor.sum()
            elif kind == 2:  # another name
                weights[generator.choice((f"{name}.x", name[1:], name.replace("0", "1")))] = tensor
        with suppress(ModelFileError):  # and no other error; some names are not needed
            rebuild(weights)


def test_it_is_recognised() -> None:
    assert find_architecture(Maker().make()) is elektronn3
    assert find_architecture({"encoder.blocks.0.weight": torch.zeros(1)}) is None
