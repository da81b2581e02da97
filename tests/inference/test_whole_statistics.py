"""Statistics of the whole image: networks with instance and group normalization tile exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.inference.test_memory import LiveMemory
from tests.inference.wholes import whole_pass

from unetari import Model, UNetConfig, predict
from unetari.errors import OutOfMemoryError
from unetari.inference.job import Job, prepare
from unetari.inference.lean import LeanUNet
from unetari.inference.predict import collect, run
from unetari.inference.runner import Runner
from unetari.inference.sketch import count_live
from unetari.model.unet import UNet

MakeModel = Callable[..., Model]


def noise(*shape: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    steps = np.indices(shape).sum(axis=0) / sum(shape)  # so that parts of the image differ
    return np.asarray(rng.normal(size=shape) + 3 * steps, np.float32)


def scores_of(model: Model, image: NDArray[Any]) -> NDArray[np.float32]:
    logits = torch.from_numpy(whole_pass(model.network, image[None], model.spec.config))
    return np.asarray((logits.softmax(0) if len(logits) > 1 else logits.sigmoid()).numpy())


@pytest.fixture(params=[0, 1], ids=["at once", "in strips"])
def in_strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Give the image to the network in one piece, or in the thinnest strips."""
    if request.param:
        monkeypatch.setattr("unetari.inference.planning.choose_pass", choose_thinnest)
    return bool(request.param)


def choose_thinnest(*_: Any, **__: Any) -> int:
    return 16


OPTIONS = [
    {"dim": 2, "normalization": "instance"},
    {"dim": 2, "normalization": "group2", "block_order": "conv-norm-act"},
    {"dim": 2, "normalization": "group4", "conv_mode": "valid", "up_mode": "nearest"},
    {"dim": 2, "normalization": "instance", "conv_mode": "valid", "up_mode": "bilinear"},
    {"dim": 3, "normalization": "instance", "block_order": "conv-norm-act", "n_blocks": 2},
    {"dim": 3, "normalization": "group2", "planar_blocks": (0,), "n_blocks": 2},
    {"dim": 3, "normalization": "group4", "conv_mode": "valid", "n_blocks": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tiles_give_what_one_plain_pass_gives(
    make_model: MakeModel, in_strips: bool, options: dict[str, Any]
) -> None:
    model = make_model(**options)
    image = noise(*((133, 151) if options["dim"] == 2 else (21, 37, 43)))
    expected = scores_of(model, image)
    tile_shapes = [(100, 108), None] if options["dim"] == 2 else [(24, 28, 44), None]
    for tile_shape in tile_shapes:
        job = prepare(
            image,
            model,
            tile_shape=tile_shape,
            norm_statistics="whole",
            scores=True,
            device="cpu",
        )
        assert (job.pass_strip == 16) == in_strips
        assert job.n_tiles > 1 or tile_shape is None
        found = collect(job)
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, expected, atol=1e-5)
        assert found.record.exact
        assert found.record.seams is None
        assert found.record.norm_statistics == "whole"
        assert found.record.warnings == ()


def test_a_region_has_the_statistics_of_the_whole(make_model: MakeModel, in_strips: bool) -> None:
    model = make_model(normalization="instance")
    image = noise(133, 151)
    region = (slice(30, 90), slice(100, 151))
    found = predict(image, model, region=region, norm_statistics="whole", scores=True, device="cpu")
    assert found.scores is not None
    expected = scores_of(model, image)[(slice(None), *region)]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_each_frame_has_its_own(make_model: MakeModel, in_strips: bool) -> None:
    model = make_model(normalization="group2")
    series = np.stack([noise(60, 70), 40 * noise(60, 70) ** 2])
    found = predict(series, model, axes="TYX", norm_statistics="whole", scores=True, device="cpu")
    assert found.scores is not None
    for plane, scores in zip(series, found.scores.swapaxes(0, 1), strict=True):
        np.testing.assert_allclose(scores, scores_of(model, plane), atol=1e-5)


@pytest.mark.parametrize("options", [{"scale": (1.3, 0.8)}, {"precision": "bf16"}])
def test_with_other_options(
    make_model: MakeModel, in_strips: bool, options: dict[str, Any]
) -> None:
    """Tiles agree with one tile that is the whole image, to the rounding of the format."""
    model = make_model(normalization="instance")
    plan = {"device": "cpu", "scores": True, **options}
    whole = predict(noise(133, 151), model, tile_shape=(400, 400), **plan)
    assert whole.record.exact
    found = predict(noise(133, 151), model, tile_shape=(100, 108), norm_statistics="whole", **plan)
    assert found.scores is not None
    assert whole.scores is not None
    difference = np.abs(found.scores - whole.scores)
    if "precision" in options:
        assert found.record.precision == "bf16"
        assert difference.mean() < 0.02
    else:
        assert difference.max() < 1e-5


@pytest.mark.parametrize("in_strips", [True], indirect=True)
def test_it_can_be_stopped(make_model: MakeModel, in_strips: bool) -> None:
    model = make_model(normalization="instance")
    job = prepare(noise(133, 151), model, norm_statistics="whole", device="cpu")
    asked = count()
    results = run(job, should_stop=lambda: next(asked) > 300)  # of some 10,000 times
    with pytest.raises(StopIteration) as end:
        next(results)
    assert end.value.value.status == "cancelled"
    assert end.value.value.tiles_done == 0
    assert next(asked) < 400


def test_it_is_said_before_the_run(make_model: MakeModel) -> None:
    model = make_model(normalization="instance")
    image = np.zeros((5, 1000, 1000), np.uint8)

    def plan(**options: Any) -> Job:
        return prepare(image, model, axes="TYX", device="cpu", norm_statistics="whole", **options)

    most = plan()
    assert "one pass over each plane, as long as a run." in most.describe()
    less = plan(max_memory=most.peak_bytes // 2)
    assert less.peak_bytes <= most.peak_bytes // 2
    assert "12 passes over each plane, about as long as 6 runs." in less.describe()
    assert less.record().peak_bytes == less.peak_bytes
    with pytest.raises(OutOfMemoryError, match=r"1000 x 1000 voxels.*1\.0 MiB.*sampled"):
        plan(max_memory=2**20)


def test_strips_get_thinner_where_memory_is_short(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(normalization="instance")
    image = noise(133, 151)
    expected = scores_of(model, image)
    push = Runner.push

    def limited(self: Runner, block: Any, rows: Any, decide: Any) -> Iterator[Any]:
        if rows.shape[2] > 20:
            raise OutOfMemoryError("full.")
        return push(self, block, rows, decide)

    def full(*_: Any) -> None:
        raise OutOfMemoryError("full.")

    monkeypatch.setattr(Runner, "push", limited)
    monkeypatch.setattr(Runner, "freeze", full)
    plan: dict[str, Any] = {"norm_statistics": "whole", "scores": True, "device": "cpu"}
    found = predict(image, model, **plan)
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    monkeypatch.setattr(Runner, "push", full)
    with pytest.raises(OutOfMemoryError, match=r"thinnest strip\. .*sampled"):
        predict(image, model, **plan)


@pytest.mark.parametrize("up_mode", ["transposed", "bilinear"])
def test_passes_keep_to_the_memory_of_a_run(up_mode: str) -> None:
    config = UNetConfig(normalization="instance", start_filters=8, n_blocks=2, up_mode=up_mode)
    sizes = (256, 32)
    with torch.device("meta"):
        network = LeanUNet(UNet(config).eval(), frozen=True)
    part = [slice(0, size) for size in sizes]
    allowed = count_live(config, sizes, part, 16, frozen=True).alive
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", lambda x: torch.zeros(x.shape))  # of no values
        for _ in network.gather():
            with LiveMemory() as memory:
                stream = network.stream(sizes)
                for _ in range(sizes[0] // 16):
                    rows = torch.empty(1, 1, 16, sizes[1], device="meta")
                    assert not list(stream.push(rows))
                image = rows.numel()
            assert memory.peak / 4 <= 1.2 * (allowed + image)  # and not more with each strip
