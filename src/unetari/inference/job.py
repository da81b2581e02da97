"""`Job`: a prediction that is checked and planned before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from unetari.core.axes import guess_axes
from unetari.core.blending import band_voxels
from unetari.core.config import UNetConfig
from unetari.core.network import NetworkConfig, NormStatistics
from unetari.core.scaling import RIM, Scaling
from unetari.core.shapes import check_shape
from unetari.core.source import ImageSource
from unetari.core.tiles import Span, TilePlan, plan_tiles, resolve_span
from unetari.errors import AxesError, ConfigError, ShapeError
from unetari.inference.memory import (
    SHARE_OF_FREE_MEMORY,
    Tiling,
    choose_batch,
    peak_bytes,
)
from unetari.inference.planning import (
    FIXED,
    divide,
    plan_box,
    plan_statistics,
    see,
    split_evenly,
    statistics_boxes,
)
from unetari.inference.precision import find_precisions
from unetari.inference.record import RunRecord
from unetari.model.checkpoint import Model, load_model
from unetari.model.device import free_memory, resolve_device
from unetari.model.unet import UNet

Frame = Mapping[str, int]
"""{axis: index} of the loop axes, such as {"T": 3}."""


@dataclass(frozen=True)
class Job:
    """A prediction that was checked and planned, and has not begun."""

    source: ImageSource
    """The image."""
    model: Model
    """The network, its normalization and its card."""
    region: tuple[slice, ...]
    """What is predicted, one slice per letter of `source.label_axes`."""
    frames: tuple[Frame, ...]
    """One {axis: index} per plane (2D network) or volume (3D network)."""
    scaling: Scaling | None
    """How the image is rescaled for the network; None if it is not."""
    plan: TilePlan
    """The tiles of every frame, on the grid that the network sees."""
    strip: int
    """Rows of a tile, or planes in 3D, that the network gets at once."""
    batch: int
    """Planes or volumes that pass through the network together, where one is too small for the
    device to work well."""
    device: str
    """The device, such as "cpu" or "cuda:0"."""
    precision: str
    """Floating-point format of the network, or "auto"."""
    norm_statistics: NormStatistics
    """Where instance and group normalization take their statistics from."""
    pass_strip: int
    """Rows of what statistics of normalization are taken from (the whole image, or all samples)
    that the network gets at once; 0 where each tile has its own."""
    budget: int
    """Bytes of the device's memory that the run may use."""
    wants_scores: bool
    """Whether results carry probabilities."""
    warnings: tuple[str, ...]
    """What the user should know before the run."""

    @property
    def labels_shape(self) -> tuple[int, ...]:
        """Shape of the labels of the region."""
        return tuple(part.stop - part.start for part in self.region)

    @property
    def labels_dtype(self) -> np.dtype[Any]:
        """uint8, or uint16 beyond 256 classes."""
        return np.dtype(np.uint8 if self.model.spec.config.n_classes <= 256 else np.uint16)

    @property
    def scores_shape(self) -> tuple[int, ...]:
        """Shape of the scores of the region, (classes, ...)."""
        return (self.model.spec.config.out_channels, *self.labels_shape)

    @property
    def spatial_region(self) -> tuple[slice, ...]:
        """The part of `region` that lies along the axes the network sees, ([Z,] Y, X)."""
        parts = dict(zip(self.source.label_axes, self.region, strict=True))
        axes = self.source.spatial_axes(self.model.spec.config.dim)
        return tuple(parts[axis] for axis in axes)

    @property
    def rim(self) -> int:
        """Voxels around what a tile writes that the way back from a rescaled image needs."""
        return 0 if self.scaling is None else RIM

    @property
    def n_tiles(self) -> int:
        """Number of tiles, over all frames."""
        return len(self.frames) * len(self.plan)

    @property
    def groups(self) -> tuple[Sequence[Frame], ...]:
        """The frames, as they pass through the network."""
        return tuple(split_evenly(self.frames, self.batch))

    @property
    def peak_bytes(self) -> int:
        """Predicted peak memory of a run on the device, in bytes.

        Weights come on top, on a CPU up to four times: in oneDNN's order and `Winograd`'s, too.
        """
        config, frozen = self.model.spec.config, self.norm_statistics in FIXED
        on_cpu = self.device == "cpu"
        peak = peak_bytes(
            self.plan,
            config,
            self.strip,
            self.scaling,
            frozen=frozen,
            on_cpu=on_cpu,
            batch=self.batch,
        )
        if self.norm_statistics == "blended":
            # A band of sums, while the next one is made.
            return peak + 4 * 2 * config.out_channels * band_voxels(self.plan)
        if not frozen:
            return peak
        boxes = self.statistics_boxes
        single = plan_box(boxes[0], config)
        needed = peak_bytes(single, config, self.pass_strip, frozen=True, on_cpu=on_cpu)
        return max(peak, len(boxes) * needed)

    @property
    def statistics_boxes(self) -> Sequence[tuple[Span, ...]]:
        """What the statistics that hold for all tiles are taken from."""
        return statistics_boxes(self.plan.shape, self.model.spec.config, self.norm_statistics)

    @property
    def whole(self) -> TilePlan:
        """The whole image as one tile."""
        return plan_tiles(self.plan.shape, self.model.spec.config, rim=self.rim)

    @property
    def is_exact(self) -> bool:
        """Whether the result is that of one pass over the whole image, to rounding."""
        is_whole = len(self.plan) == 1 and self.plan.region == self.whole.region
        if self.norm_statistics in ("tile", "blended"):
            return self.model.spec.config.tiles_exactly or is_whole
        return self.norm_statistics == "whole"

    @property
    def in_strips(self) -> bool:
        """Whether the network gets a tile strip by strip."""
        return self.strip < self.plan.tile_shape[0]

    def describe(self) -> str:
        """Say how the work is divided, and what memory it takes."""
        tiles = "1 tile" if self.n_tiles == 1 else f"{self.n_tiles} tiles"
        sizes = " x ".join(map(str, self.plan.tile_shape))
        memory = max(1, round(self.peak_bytes / 2**20))
        amount = f"{memory} MiB" if memory < 1024 else f"{memory / 1024:.1f} GiB"
        rows = "planes" if len(self.plan.tile_shape) == 3 else "rows"
        strips = f" in strips of {self.strip} {rows}" if self.in_strips else ""
        strips += f", {self.batch} at once," if self.batch > 1 else ""
        work = f"{tiles} of {sizes} voxels{strips} on {self.device}, about {amount} of memory."
        return f"{work}{self._describe_passes()}"

    def _describe_passes(self) -> str:
        """Say how long statistics of the whole image take."""
        if self.norm_statistics != "whole":
            return ""
        layers = 5 * cast("UNetConfig", self.model.spec.config).n_blocks - 3
        one = "plane" if len(self.plan.shape) == 2 else "volume"
        if self.pass_strip >= self.whole.tile_shape[0]:
            return f" Statistics take one pass over each {one}, as long as a run."
        return (
            f" Statistics take {layers} passes over each {one}, about as long as "
            f"{-(-layers // 2)} runs."
        )

    def record(self, **outcome: Any) -> RunRecord:
        """Describe the run; `outcome` adds what is known only afterwards."""
        is_blended = self.norm_statistics == "blended"
        return RunRecord(
            model=self.model.spec.replace(training={}),  # long, and found by the hash
            model_source=self.model.source,
            model_sha256=self.model.sha256,
            image_shape=tuple(self.source.data.shape),
            image_axes=self.source.axes,
            image_dtype=str(self.source.data.dtype),
            channel=self.source.channel,
            grey=self.source.grey,
            region=tuple((part.start, part.stop) for part in self.region),
            scale=None if self.scaling is None else self.scaling.factors,
            tile_shape=self.plan.tile_shape,
            strip=self.strip,
            batch=self.batch,
            halo=(0,) * len(self.plan.shape) if is_blended else self.plan.halo,
            n_tiles=self.n_tiles,
            norm_statistics=self.norm_statistics,
            peak_bytes=self.peak_bytes,
            device=self.device,
            exact=self.is_exact,
            warnings=self.warnings,
            **outcome,
        )


def prepare(
    image: Any,
    model: Model | str | os.PathLike[str],
    *,
    axes: str | None = None,
    channel: int | None = None,
    grey: bool = False,
    region: Sequence[slice] | None = None,
    scale: Sequence[float] | None = None,
    device: str = "auto",
    precision: str = "float32",
    norm_statistics: str = "tile",
    tile_shape: Sequence[int] | None = None,
    max_memory: int | None = None,
    scores: bool = False,
) -> Job:
    """Check an image against a model and plan the work.

    Parameters
    ----------
    image : array-like or ImageSource
        numpy, dask or zarr array of any real dtype. With an `ImageSource`,
        `axes`, `channel` and `grey` are its own.
    model : Model, str or path-like
        A loaded model, the name of a bundled or kept one, or a path.
    axes : str, optional
        One letter per axis: T, C, Z, Y, X, and S for RGB samples, such as
        "TCZYX". Default: guessed from the shape.
    channel : int, optional
        Use this channel only.
    grey : bool
        Convert RGB to grey.
    region : sequence of slice, optional
        One per axis of the labels (the image's axes less C and S); default:
        everything. The values are those of the whole-image result.
    scale : sequence of float, optional
        Factors by which the image is resampled before the network sees it,
        ([Z,] Y, X); `rescale_factors` has those that suit a model. Labels and
        scores come back on the image's own grid. Default: as it is.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps".
    precision : str
        "float32" is exact; "tf32", "bf16" and "fp16" are faster where the hardware
        has them. "auto" takes the fastest that changes at most 0.05 % of the labels
        of a sample, and gives finite numbers only.
    norm_statistics : str
        For U-Nets with instance or group normalization: what their statistics are taken
        from. "tile": each tile, whose borders can show. "sampled": up to 9 samples of each
        plane or volume, once; tiles then leave no trace, and results do not depend on
        them, but they are not exactly those of one whole pass. "whole": all of each plane
        or volume, found layer by layer in one pass for each unless all fits in memory at
        once; the result is that of one whole pass. "blended": each of tiles as large as the
        patches the network was trained on, which overlap by half; the mean of their
        probabilities is taken, in which a tile weighs less towards its edges.
    tile_shape : sequence of int, optional
        Largest outer size of a tile, ([Z,] Y, X), as the network sees it;
        default: from the memory that may be used; for "blended" the size of the training
        patches, or 192 x 192 pixels or 32 x 64 x 64 voxels.
    max_memory : int, optional
        Bytes of the device's memory that the run may use; default: half of what is
        free. Tiles that are given are not made smaller for it.
    scores : bool
        Whether to return probabilities beside the labels.

    Returns
    -------
    Job

    Raises
    ------
    AxesError
        If `axes` does not describe the image.
    ShapeError
        If the image, region, scale or tile does not fit the network.
    ConfigError
        If `norm_statistics` means nothing to the network, or `max_memory` is not positive.
    ModelFileError
        If the model cannot be loaded.
    DeviceError
        If the device does not exist, or has no such precision.
    OutOfMemoryError
        If not even the thinnest strips of the whole image fit, for statistics of the whole.
    """
    _check_memory(max_memory)
    model = model if isinstance(model, Model) else load_model(model)
    config = model.spec.config
    statistics = _check_statistics(config, norm_statistics)
    source = _as_source(image, axes, channel, grey, config.dim)
    report = check_shape(config, source, scale=scale)
    if report.problems:
        raise ShapeError(" ".join(report.problems))
    bounds = _resolve_region(source, region)
    view = see(source, bounds, config.dim, scale)
    chosen = resolve_device(device)
    find_precisions(precision, chosen, model.network)
    budget = free_memory(chosen) * SHARE_OF_FREE_MEMORY if max_memory is None else max_memory
    plan, strip = divide(
        view, model.spec, statistics, tile_shape=tile_shape, budget=budget, device_type=chosen.type
    )
    if isinstance(model.network, UNet):
        model.network.check_input((1, config.in_channels, *plan.tile_shape))
    slices = tuple(bounds[axis].slice for axis in source.label_axes)
    job = Job(
        source=source,
        model=model,
        region=slices,
        frames=tuple(source.frames(config.dim, slices)),
        scaling=view.scaling,
        plan=plan,
        strip=strip,
        batch=1,
        device=str(chosen),
        precision=precision,
        norm_statistics=statistics,
        pass_strip=plan_statistics(
            view.shape, config, statistics, budget=budget, device_type=chosen.type
        ),
        budget=round(budget),
        wants_scores=scores,
        warnings=_warnings(model, plan, statistics),
    )
    if max_memory is not None and job.peak_bytes > max_memory:
        return replace(job, warnings=(*job.warnings, _too_little(job.peak_bytes, max_memory)))
    return replace(job, batch=_choose_batch(job))


def _choose_batch(job: Job) -> int:
    """Return how many frames pass through the network together."""
    config = job.model.spec.config
    is_alone = job.model.spec.normalization.scope == "frame"
    if is_alone or job.norm_statistics != "tile" or not isinstance(config, UNetConfig):
        return 1
    tiling = Tiling(job.plan.tile_shape, job.strip)
    most = choose_batch(tiling, config, job.device.split(":")[0])
    batch = min(most, len(job.frames))
    while batch > 1 and replace(job, batch=batch).peak_bytes > job.budget:
        batch //= 2
    return batch


def _check_memory(max_memory: object) -> None:
    if max_memory is None:
        return
    is_whole = isinstance(max_memory, Integral) and not isinstance(max_memory, bool)
    if not is_whole or cast("int", max_memory) < 1:
        raise ConfigError(
            f"max_memory={max_memory!r} must be a whole number of bytes, at least 1, such as "
            "2**30 for 1 GiB. Leave it out to use half of what is free."
        )


def _too_little(needed: int, allowed: int) -> str:
    return (
        f"The tiles need about {needed / 2**20:.1f} MiB, more than the {allowed / 2**20:.1f} MiB "
        "that the run may use. Allow more, give smaller tiles, or use a network with fewer blocks "
        "or filters."
    )


def _as_source(
    image: Any, axes: str | None, channel: int | None, grey: bool, dim: int
) -> ImageSource:
    if isinstance(image, ImageSource):
        if axes is not None or channel is not None or grey:
            raise AxesError(
                f"axes={axes!r}, channel={channel} and grey={grey} belong to an array; this image "
                "is an ImageSource with its own. Use dataclasses.replace to change them."
            )
        return image
    data = image if isinstance(getattr(image, "dtype", None), np.dtype) else _to_array(image)
    if axes is None:
        axes = guess_axes(data.shape, dim=dim).axes
    return ImageSource(data, axes, channel=channel, grey=grey)


def _to_array(image: Any) -> NDArray[Any]:
    if image is None or isinstance(image, (str, os.PathLike)):
        raise AxesError(
            f"image={image!r} is no array. Open files with "
            "unetari.storage.images.open_image(path).source()."
        )
    try:
        return np.asarray(image)
    except (TypeError, ValueError) as error:
        raise AxesError(
            f"The image is no array of numbers: {error}. Give a numpy, dask or zarr array."
        ) from error


def _resolve_region(source: ImageSource, region: Sequence[slice] | None) -> dict[str, Span]:
    """Return start and stop per label axis."""
    axes, shape = source.label_axes, source.label_shape
    parts = [slice(None)] * len(axes) if region is None else region
    if not isinstance(parts, Sequence) or not all(isinstance(part, slice) for part in parts):
        raise ShapeError(
            f"region={region!r} must be one slice per axis of the labels ({axes}), such as "
            f"{', '.join(['slice(0, 64)'] * len(axes))}."
        )
    if len(parts) != len(axes):
        raise ShapeError(
            f"The region has {len(parts)} slices, and the labels have {len(axes)} axes ({axes}). "
            "Give one slice per axis."
        )
    return {
        axis: resolve_span(part, size, f"axis {axis}")
        for axis, size, part in zip(axes, shape, parts, strict=True)
    }


def _check_statistics(config: NetworkConfig, statistics: str) -> NormStatistics:
    choices: tuple[NormStatistics, ...] = get_args(NormStatistics)
    if statistics not in choices:
        raise ConfigError(
            f"norm_statistics={statistics!r} is unknown. Choose one of: {', '.join(choices)}."
        )
    if statistics != "tile" and (config.tiles_exactly or not isinstance(config, UNetConfig)):
        raise ConfigError(
            f"norm_statistics={statistics!r} is for U-Nets of unetari with instance or group "
            "normalization, and this network is none. Leave it out."
        )
    return choices[choices.index(statistics)]


def _warnings(model: Model, plan: TilePlan, statistics: NormStatistics) -> tuple[str, ...]:
    config = model.spec.config
    if statistics in FIXED or config.tiles_exactly or len(plan) == 1:
        return ()
    if isinstance(config, UNetConfig):
        cause = f"uses {config.normalization} normalization, whose statistics come from each tile"
        if statistics == "blended":
            return (
                f"The model {cause}. The {len(plan)} tiles are blended, which hides their borders; "
                "the result is not that of one whole pass, and depends on where the tiles lie. How "
                "much is measured after the run.",
            )
        advice = (
            '; so do statistics of the whole image (norm_statistics="whole") or of samples of it '
            '("sampled"), and a model with batch normalization'
        )
    else:
        cause, advice = "sees its whole input at once", ""
    return (
        f"The model {cause}: results can differ at the borders of the {len(plan)} tiles, however "
        "large the halo. The difference is measured after the run. One tile that holds the whole "
        f"image avoids it{advice}.",
    )
