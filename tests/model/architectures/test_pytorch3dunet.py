"""pytorch-3dunet: networks rebuilt from weights give what plain layers and the program give."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from unetari.errors import ConfigError, ModelFileError
from unetari.model.architectures import Rebuilt, find_architecture, pytorch3dunet
from unetari.model.probe import probe_network
from unetari.model.weights import LoadOptions

Weights = dict[str, Tensor]

ACTIVATION: dict[str, Any] = {"r": F.relu, "e": F.elu, "l": F.leaky_relu}
CONV: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
POOL: dict[int, Any] = {2: F.max_pool2d, 3: F.max_pool3d}
UP_CONV: dict[int, Any] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def rebuild(weights: Weights, **options: Any) -> Rebuilt:
    return pytorch3dunet.rebuild(weights, LoadOptions(**options))


def multiples(rebuilt: Rebuilt) -> tuple[int, ...]:
    return tuple(reach.multiple for reach in rebuilt.config.reach)


def run(rebuilt: Rebuilt, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = rebuilt.network(x)
    return scores


def close(scores: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05  # equal constants would say nothing
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


# Weights as the program names them, drawn by seed


class Maker:
    """Draws weights: the same for the same names and shapes."""

    def __init__(self, dim: int, norm: str, *, first: bool = True, kernel: int = 3) -> None:
        self.dim, self.norm, self.first, self.kernel = dim, norm, first, kernel
        self.weights: Weights = {}
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, positive: bool = False) -> None:
        tensor = torch.randn(shape, generator=self.generator)
        fan = max(1, tensor[0].numel())
        tensor = tensor.abs() + 0.5 if positive else tensor * (1.4 / fan**0.5)
        self.weights[name] = tensor

    def conv(self, name: str, n_in: int, n_out: int, size: int = 1, *, bias: bool = True) -> None:
        self.draw(f"{name}.weight", n_out, n_in, *[size] * self.dim)
        if bias:
            self.draw(f"{name}.bias", n_out)

    def norm_layer(self, name: str, channels: int) -> None:
        if not self.norm:
            return
        self.draw(f"{name}.{self.norm}.weight", channels, positive=True)
        self.draw(f"{name}.{self.norm}.bias", channels)
        if self.norm == "batchnorm":
            self.draw(f"{name}.{self.norm}.running_mean", channels)
            self.draw(f"{name}.{self.norm}.running_var", channels, positive=True)
            self.weights[f"{name}.{self.norm}.num_batches_tracked"] = torch.tensor(3)

    def single(self, name: str, n_in: int, n_out: int) -> None:
        if self.first:
            self.norm_layer(name, n_in)
        self.conv(f"{name}.conv", n_in, n_out, self.kernel, bias=not self.norm)
        if not self.first:
            self.norm_layer(name, n_out)

    def double(self, name: str, n_in: int, between: int, n_out: int) -> None:
        self.single(f"{name}.basic_module.SingleConv1", n_in, between)
        self.single(f"{name}.basic_module.SingleConv2", between, n_out)

    def residual(self, name: str, n_in: int, n_out: int, *, old: bool, excite: str = "") -> None:
        block = f"{name}.basic_module"
        if old:
            self.single(f"{block}.conv1", n_in, n_out)
        elif n_in != n_out:
            self.conv(f"{block}.conv1", n_in, n_out)
        self.single(f"{block}.conv2", n_out, n_out)
        self.single(f"{block}.conv3", n_out, n_out)
        inner = {"scse": "cSE.", "cse": ""}.get(excite)
        if inner is not None:
            for layer in ("fc1", "fc2"):
                self.draw(f"{block}.se_module.{inner}{layer}.weight", n_out, n_out)
                self.draw(f"{block}.se_module.{inner}{layer}.bias", n_out)
        if excite in ("scse", "sse"):
            self.conv(f"{block}.se_module.{'sSE.' * (excite == 'scse')}conv", n_out, 1)


def plain_weights(
    maker: Maker, filters: tuple[int, ...] = (8, 16, 24), n_in: int = 1, n_out: int = 3
) -> Weights:
    channels = n_in
    for level, n in enumerate(filters):
        maker.double(f"encoders.{level}", channels, max(n // 2, channels), n)
        channels = n
    for index, n in enumerate(reversed(filters[:-1])):
        maker.double(f"decoders.{index}", channels + n, n, n)
        channels = n
    maker.conv("final_conv", filters[0], n_out)
    return maker.weights


def residual_weights(
    maker: Maker, *, up: str, old: bool = False, excite: str = "", bias: bool = True
) -> Weights:
    filters = (8, 16, 24)
    for level, (n_in, n) in enumerate(pairwise((1, *filters))):
        maker.residual(f"encoders.{level}", n_in, n, old=old, excite=excite)
    for index, (n, n_in) in enumerate(reversed(list(pairwise(filters)))):
        maker.draw(f"decoders.{index}.{up}.weight", n_in, n, *[3] * maker.dim)
        if bias:
            maker.draw(f"decoders.{index}.{up}.bias", n)
        maker.residual(f"decoders.{index}", n, n, old=old, excite=excite)
    maker.conv("final_conv", filters[0], 3)
    return maker.weights


# The published networks in plain functions


def apply_single(w: Weights, name: str, x: Tensor, order: str, groups: int) -> Tensor:
    for letter in order:
        if letter == "c":
            kernel = w[f"{name}.conv.weight"]
            padding = [n // 2 for n in kernel.shape[2:]]
            x = CONV[x.ndim - 2](x, kernel, w.get(f"{name}.conv.bias"), padding=padding)
        elif letter == "g":
            n = 1 if x.shape[1] < groups else groups
            x = F.group_norm(x, n, w[f"{name}.groupnorm.weight"], w[f"{name}.groupnorm.bias"])
        elif letter == "b":
            mean, var, scale, shift = (
                w[f"{name}.batchnorm.{part}"]
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.batch_norm(x, mean, var, scale, shift)
        else:
            x = ACTIVATION[letter](x)
    return x


def apply_block(w: Weights, name: str, x: Tensor, order: str, groups: int) -> Tensor:
    block = f"{name}.basic_module"
    if f"{block}.SingleConv1.conv.weight" in w:
        x = apply_single(w, f"{block}.SingleConv1", x, order, groups)
        return apply_single(w, f"{block}.SingleConv2", x, order, groups)
    if f"{block}.conv1.conv.weight" in w:
        x = apply_single(w, f"{block}.conv1", x, order, groups)
    elif f"{block}.conv1.weight" in w:
        x = CONV[x.ndim - 2](x, w[f"{block}.conv1.weight"], w[f"{block}.conv1.bias"])
    y = apply_single(w, f"{block}.conv2", x, order, groups)
    y = x + apply_single(
        w, f"{block}.conv3", y, order.translate({ord(c): "" for c in "rel"}), groups
    )
    y = F.elu(y) if "e" in order else F.leaky_relu(y, 0.1) if "l" in order else F.relu(y)
    return excite(w, f"{block}.se_module", y)


def excite(w: Weights, name: str, x: Tensor) -> Tensor:
    weighed = []
    for inner in ("", ".cSE"):
        if f"{name}{inner}.fc1.weight" in w:
            mean = x.mean(tuple(range(2, x.ndim)))
            hidden = F.relu(
                F.linear(mean, w[f"{name}{inner}.fc1.weight"], w[f"{name}{inner}.fc1.bias"])
            )
            channel = F.linear(hidden, w[f"{name}{inner}.fc2.weight"], w[f"{name}{inner}.fc2.bias"])
            weighed.append(x * torch.sigmoid(channel)[(...,) + (None,) * (x.ndim - 2)])
    for inner in ("", ".sSE"):
        if f"{name}{inner}.conv.weight" in w:
            convolved = CONV[x.ndim - 2](
                x, w[f"{name}{inner}.conv.weight"], w[f"{name}{inner}.conv.bias"]
            )
            weighed.append(x * torch.sigmoid(convolved))
    return torch.stack(weighed).amax(0) if weighed else x


def upsample(w: Weights, name: str, x: Tensor, size: torch.Size, mode: str) -> Tensor:
    dim = x.ndim - 2
    for up, extra in (("upsample", 1), ("upsampling.upsample", 1), (".conv_transposed", 0)):
        full = f"{name}.{'upsampling.upsample' if up.startswith('.') else ''}{up}"
        if f"{full}.weight" in w:
            kernel, bias = w[f"{full}.weight"], w.get(f"{full}.bias")
            x = UP_CONV[dim](x, kernel, bias, stride=2, padding=1, output_padding=extra)
            return x if extra else F.interpolate(x, size=size)
    return F.interpolate(x, size=size, mode=mode)


def reference(
    w: Weights,
    x: Tensor,
    order: str,
    *,
    groups: int = 8,
    pool: tuple[int, ...] | None = None,
    mode: str = "nearest",
) -> Tensor:
    skips = []
    levels = len({name.split(".")[1] for name in w if name.startswith("encoders.")})
    for level in range(levels):
        if level:
            x = POOL[x.ndim - 2](x, pool or 2)
        x = apply_block(w, f"encoders.{level}", x, order, groups)
        skips.append(x)
    for index, skip in enumerate(reversed(skips[:-1])):
        x = upsample(w, f"decoders.{index}", x, skip.shape[2:], mode)
        is_sum = (
            x.shape[1] == skip.shape[1] and f"decoders.{index}.basic_module.conv2.conv.weight" in w
        )
        x = skip + x if is_sum else torch.cat((skip, x), 1)
        x = apply_block(w, f"decoders.{index}", x, order, groups)
    scores: Tensor = CONV[x.ndim - 2](x, w["final_conv.weight"], w["final_conv.bias"])
    return scores


def image(dim: int, channels: int = 1) -> Tensor:
    shape = (2, channels, 8, 12, 16) if dim == 3 else (2, channels, 24, 28)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# Plain networks

NORMS = {"g": "groupnorm", "b": "batchnorm"}


def maker_for(order: str, dim: int) -> Maker:
    letter = next((c for c in order if c in NORMS), "")
    first = bool(letter) and order.index(letter) < order.index("c")
    return Maker(dim, NORMS.get(letter, ""), first=first)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    "order", ["gcr", "grc", "cgr", "crg", "gce", "gcl", "bcr", "cbr", "cbe", "cr", "cl"]
)
def test_plain_networks(order: str, dim: int) -> None:
    weights = plain_weights(maker_for(order, dim))
    usual = order in ("gcr", "cgr", "bcr", "cbr", "cr")
    rebuilt = rebuild(weights, **({} if usual else {"layer_order": order}))
    close(run(rebuilt, image(dim)), reference(weights, image(dim), order))
    config = rebuilt.config
    assert config.architecture == f"UNet{dim}D of pytorch-3dunet"
    assert (config.dim, config.in_channels, config.out_channels) == (dim, 1, 3)
    assert multiples(rebuilt) == (4,) * dim
    assert config.tiles_exactly == ("g" not in order)
    assert config.classes == "exclusive"


def test_odd_sizes_are_taken_as_the_program_takes_them() -> None:
    weights = plain_weights(maker_for("bcr", 3))
    odd = image(3)[..., :7, :9, :13]
    close(run(rebuild(weights), odd), reference(weights, odd, "bcr"))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_number_of_groups(groups: int) -> None:
    weights = plain_weights(maker_for("gcr", 3), filters=(4, 8), n_in=2)
    rebuilt = rebuild(weights, normalization=f"group{groups}")
    close(run(rebuilt, image(3, 2)), reference(weights, image(3, 2), "gcr", groups=groups))


@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
def test_interpolation(mode: str) -> None:
    weights = plain_weights(maker_for("bcr", 3))
    expected = reference(weights, image(3), "bcr", mode=mode)
    close(run(rebuild(weights, up_mode=mode), image(3)), expected)


def test_anisotropic_pooling_and_kernels() -> None:
    weights = plain_weights(maker_for("bcr", 3))
    weights = {n: t[:, :, 1:2] if t.shape[2:] == (3, 3, 3) else t for n, t in weights.items()}
    rebuilt = rebuild(weights, pool_size="1x2x2")
    assert multiples(rebuilt) == (1, 4, 4)
    close(run(rebuilt, image(3)), reference(weights, image(3), "bcr", pool=(1, 2, 2)))


def test_slope_of_leaky_activations() -> None:
    weights = plain_weights(maker_for("cl", 2))
    gentle, steep = (rebuild(weights, activation=a) for a in ("leaky0.01", "leaky"))
    assert torch.equal(run(gentle, image(2)), run(rebuild(weights, layer_order="cl"), image(2)))
    assert not torch.allclose(run(gentle, image(2)), run(steep, image(2)))


# Residual networks

UPS: dict[str, dict[str, Any]] = {
    "upsampling.upsample.conv_transposed": {"bias": False},
    "upsampling.upsample": {},
    "upsample": {"old": True},
}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("order", ["gcr", "cge", "bcr", "cl"])
@pytest.mark.parametrize("up", UPS)
def test_residual_networks(up: str, order: str, dim: int) -> None:
    weights = residual_weights(maker_for(order, dim), up=up, **UPS[up])
    options = {} if order in ("gcr", "bcr") else {"layer_order": order}
    if "l" in order:
        options["activation"] = "leaky0.01"
    rebuilt = rebuild(weights, **options)
    close(run(rebuilt, image(dim)), reference(weights, image(dim), order))
    assert rebuilt.config.architecture == f"ResidualUNet{dim}D of pytorch-3dunet"
    assert rebuilt.config.tiles_exactly == ("g" not in order)


@pytest.mark.parametrize("kind", ["scse", "cse", "sse"])
def test_squeeze_and_excitation(kind: str) -> None:
    up = "upsampling.upsample.conv_transposed"
    weights = residual_weights(maker_for("bcr", 3), up=up, excite=kind, bias=False)
    rebuilt = rebuild(weights)
    close(run(rebuilt, image(3)), reference(weights, image(3), "bcr"))
    assert rebuilt.config.architecture == "ResidualUNetSE3D of pytorch-3dunet"
    assert rebuilt.config.tiles_exactly == (kind == "sse")  # the mean sees the whole input


def test_place_of_the_norm_is_told_by_the_order_of_names() -> None:
    up = "upsampling.upsample.conv_transposed"
    last = residual_weights(Maker(2, "groupnorm", first=False), up=up, bias=False)
    close(run(rebuild(last), image(2)), reference(last, image(2), "cgr"))
    ordered = dict(sorted(last.items()))
    assert any("layer_order='gcr' is assumed" in note for note in rebuild(ordered).notes)
    assert torch.equal(
        run(rebuild(ordered, layer_order="cgr"), image(2)), run(rebuild(last), image(2))
    )


# Sizes and surroundings: derived from the layers, and probed


@pytest.mark.parametrize("kind", ["nearest", "bilinear", *UPS])
def test_reach_is_what_probing_finds(kind: str) -> None:
    if kind in UPS:
        rebuilt = rebuild(residual_weights(maker_for("bcr", 2), up=kind, **UPS[kind]))
    else:
        rebuilt = rebuild(plain_weights(maker_for("bcr", 2)), up_mode=kind)
    probe = probe_network(rebuilt.network, dim=2, in_channels=1)
    assert probe.exact
    assert probe.reaches == rebuilt.config.reach


# What is said, and what is refused


def test_what_is_assumed_is_said() -> None:
    said = rebuild(plain_weights(maker_for("gcr", 3))).notes
    begins = [note.partition(" is assumed")[0] for note in said]
    assert begins == [
        "activation='relu'",
        "layer_order='gcr'",
        "normalization='group8'",
        "up_mode='nearest'",
        "pool_size='2x2x2'",
        "classes='exclusive'",
    ]


def test_nothing_is_assumed_that_is_told() -> None:
    weights = plain_weights(maker_for("cr", 2), n_out=1)
    rebuilt = rebuild(weights, layer_order="cr", up_mode="nearest")
    assert rebuilt.notes == ()
    assert rebuilt.config.classes == "independent"


def test_independent_classes() -> None:
    weights = plain_weights(maker_for("gcr", 2))
    assert rebuild(weights).config.classes == "exclusive"
    assert rebuild(weights, classes="independent").config.classes == "independent"


def test_dropout_does_nothing() -> None:
    weights = plain_weights(maker_for("bcr", 2))
    dropped = rebuild(weights, layer_order="bcrd")
    assert torch.equal(run(dropped, image(2)), run(rebuild(weights), image(2)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"layer_order": "cgr"}, "contradicts the weights, which allow gcr, grc"),
        ({"layer_order": "bcr"}, "contradicts"),
        ({"layer_order": "gcx"}, "contradicts"),
        ({"layer_order": "gce", "activation": "relu"}, "two activation functions"),
        ({"activation": "silu"}, "contradicts"),
        ({"normalization": "group3"}, "contradicts"),
        ({"normalization": "batch"}, "contradicts"),
        ({"up_mode": "transposed"}, "contradicts"),
        ({"classes": "measured"}, "classes"),
        ({"conv_mode": "valid"}, "means nothing to this network"),
        ({"full_norm": True}, "means nothing to this network"),
    ],
)
def test_options_against_the_weights(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        rebuild(plain_weights(maker_for("gcr", 3)), **options)


def without(weights: Weights, *parts: str) -> Weights:
    return {n: t for n, t in weights.items() if not any(part in n for part in parts)}


@pytest.mark.parametrize(
    "part",
    ["final_conv", "encoders.1", "encoders.2", "decoders.1", "SingleConv2", "norm.bias", "1.conv"],
)
def test_missing_weights(part: str) -> None:
    with pytest.raises(ModelFileError, match=r"lack|missing|holds|takes"):
        rebuild(without(plain_weights(maker_for("gcr", 3)), part))


@pytest.mark.parametrize("name", ["decoders.2.x", "encoders.x.y", "encoders.20.a", "head.weight"])
def test_weights_too_many(name: str) -> None:
    weights = plain_weights(maker_for("gcr", 3)) | {name: torch.zeros(1)}
    with pytest.raises(ModelFileError, match=r"not expected|numbered from 0"):
        rebuild(weights)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("final_conv.weight", (3, 8)),
        ("final_conv.weight", (0, 8, 1, 1, 1)),
        ("final_conv.weight", ()),
        ("encoders.0.basic_module.SingleConv1.conv.weight", (4, 1, 99, 3, 3)),
        ("encoders.0.basic_module.SingleConv1.conv.weight", (100_000, 1, 1, 1, 1)),
        ("encoders.0.basic_module.SingleConv1.conv.weight", (4, 1, 3, 3)),
        ("encoders.1.basic_module.SingleConv1.conv.weight", (8, 9, 3, 3, 3)),
        ("encoders.1.basic_module.SingleConv2.conv.weight", (16, 8, 2, 2, 2)),
        ("decoders.0.basic_module.SingleConv1.conv.weight", (16, 41, 3, 3, 3)),
        ("encoders.1.basic_module.SingleConv1.groupnorm.weight", ()),
        ("encoders.1.basic_module.SingleConv1.groupnorm.weight", (0,)),
        ("encoders.1.basic_module.SingleConv1.groupnorm.weight", (7,)),
        ("encoders.1.basic_module.SingleConv2.groupnorm.bias", (7,)),
    ],
)
def test_impossible_shapes(name: str, shape: tuple[int, ...]) -> None:
    weights = plain_weights(maker_for("gcr", 3)) | {name: torch.zeros(shape)}
    with pytest.raises(ModelFileError, match=r"shape|takes"):
        rebuild(weights)


def test_both_norms() -> None:
    weights = plain_weights(maker_for("gcr", 3))
    weights["encoders.0.basic_module.SingleConv1.batchnorm.weight"] = torch.zeros(1)
    with pytest.raises(ModelFileError, match="both group and batch"):
        rebuild(weights)


def test_damaged_shapes_of_excitation() -> None:
    up = "upsampling.upsample.conv_transposed"
    weights = residual_weights(maker_for("bcr", 3), up=up, excite="cse", bias=False)
    for shape in ((), (0, 8), (8,), (9, 8)):
        weights["encoders.0.basic_module.se_module.fc1.weight"] = torch.zeros(shape)
        with pytest.raises(ModelFileError, match="shape"):
            rebuild(weights)


@pytest.mark.parametrize("residual", [True, False])
def test_every_damage_is_refused(residual: bool) -> None:
    generator = random.Random(0)
    whole = plain_weights(maker_for("gcr", 3))
    if residual:
        up = "upsampling.upsample"
        whole = residual_weights(maker_for("gcr", 3), up=up, excite="scse")
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


# Against the program itself (pytorch-3dunet 1.9.6): mean, deviation, and some values of the logits


def figures(scores: Tensor) -> list[float]:
    flat = scores.flatten()
    samples = flat[:: flat.numel() // 3].tolist()[:4]
    return [scores.mean().item(), scores.std().item(), *samples, flat[-1].item()]


@pytest.mark.parametrize(
    ("order", "dim", "expected"),
    [
        ("gcr", 3, [0.614849, 4.329713, -2.45699, 0.075814, -1.140844, 1.274293]),
        ("gcr", 2, [0.830223, 3.163112, -6.670163, 0.644697, -4.297324, 2.393129]),
        ("bce", 3, [-17.187645, 88.553505, -6.611696, -34.445011, -1.056015, -46.650387]),
        ("bce", 2, [15.514213, 23.293833, -5.340435, -0.889545, -3.719818, 4.792089]),
    ],
)
def test_plain_networks_as_the_program_has_them(
    order: str, dim: int, expected: list[float]
) -> None:
    weights = plain_weights(maker_for(order, dim))
    scores = run(rebuild(weights, layer_order=order), image(dim))
    assert figures(scores) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("order", "dim", "expected"),
    [
        ("gcr", 3, [2.197188, 4.029999, 2.67949, -0.271857, -0.706233, 1.231956]),
        ("gcr", 2, [0.136954, 10.07943, -1.877325, 7.178752, -1.977342, 1.547043]),
        ("bce", 3, [21.202166, 54.129627, -3.425428, 1.866853, 16.724676, -11.350037]),
        ("bce", 2, [68.823311, 85.127991, 74.418137, 39.158634, 16.068869, 3.997463]),
    ],
)
def test_residual_networks_as_the_program_has_them(
    order: str, dim: int, expected: list[float]
) -> None:
    up = "upsampling.upsample.conv_transposed"
    weights = residual_weights(maker_for(order, dim), up=up, bias=False)
    scores = run(rebuild(weights, layer_order=order), image(dim))
    assert figures(scores) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_excitation_as_the_program_has_it() -> None:
    up = "upsampling.upsample.conv_transposed"
    weights = residual_weights(maker_for("gcr", 3), up=up, bias=False, excite="scse")
    expected = [0.348326, 1.340266, 0.998816, -1.072083, 1.497214, -1.315968]
    assert figures(run(rebuild(weights), image(3))) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_real_checkpoint(shared: Path) -> None:
    path = shared / "models" / "panseg_unet3d_checkpoint" / "best_checkpoint.pytorch"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    assert find_architecture(weights) is pytorch3dunet
    rebuilt = rebuild(weights)
    assert sum(p.numel() for p in rebuilt.network.parameters()) == 1_021_115
    x = torch.randn(1, 1, 16, 24, 32, generator=torch.Generator().manual_seed(1))
    scores = run(rebuilt, x)
    close(scores, reference(weights, x, "gcr"))
    expected = [-0.734453, 0.815032, -0.050931, -0.998993, -0.616607, -0.351629]
    assert figures(scores) == pytest.approx(expected, rel=1e-4, abs=1e-4)
