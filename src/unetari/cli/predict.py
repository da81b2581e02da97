"""``unetari predict``: an image file in, a label file out."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetari.cli.console import (
    INTERRUPTED,
    AssumeOption,
    AxesOption,
    ChannelOption,
    GreyOption,
    ModelOption,
    OverwriteOption,
    TrustOption,
    catch_interrupts,
    describe_image,
    load,
    micrometers,
    parse_factors,
    parse_sizes,
    progress_bar,
    show_message,
    show_voxel_sizes,
    stdout,
)
from unetari.errors import OutputExistsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from unetari.inference.decide import TileResult
    from unetari.inference.job import Job
    from unetari.inference.record import RunRecord
    from unetari.model.checkpoint import Model
    from unetari.storage.images import ImageFile


def predict(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="TIFF, PNG, JPEG, npy, zarr or OME-Zarr.")
    ],
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The label file: .tif, .ome.tif, .npy or .zarr."),
    ],
    axes: AxesOption = None,
    channel: ChannelOption = None,
    grey: GreyOption = False,
    rescale: Annotated[
        bool,
        typer.Option(
            "--rescale",
            help="Resample the image, for the network, to the voxel size the model was trained on.",
        ),
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="[Zx]YxX",
            help="Resample the image, for the network, by these factors, such as 0.5x0.5.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="float32 (exact), tf32, bf16 or fp16; auto takes the fastest that changes at most "
            "0.05 % of the labels of a sample."
        ),
    ] = "float32",
    norm_statistics: Annotated[
        str,
        typer.Option(
            help="What instance or group normalization takes its statistics from: tile (each its "
            "own, so that borders can show), sampled (parts of the image, once), whole (all of "
            "the image: exact, and slow where it does not fit in memory at once), or blended (each "
            "of overlapping tiles of the training patches' size, whose mean is taken)."
        ),
    ] = "tile",
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="[Zx]YxX",
            help="Largest tile, such as 512x512. Default: what fits in memory.",
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0.01,
            help="Memory the run may use, in GiB. Default: half of what is free.",
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Write the probabilities of the classes here, too.")
    ] = None,
    assume: AssumeOption = None,
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Segment an image and write the labels, with a record of the run beside them.

    The labels keep the image's voxel size and its axes without channels. The
    record is named after them, with .json added. An interrupted run leaves no
    file behind.
    """
    from unetari.storage.images import open_image

    if rescale and scale is not None:
        raise typer.BadParameter("--rescale and --scale exclude each other. Give one of the two.")
    outputs = [out] if scores is None else [out, scores]
    _check_outputs(outputs, image, overwrite)
    tile_shape = None if tile is None else parse_sizes(tile, "--tile")
    opened = open_image(image, axes)
    loaded = _load(model, assume, trust)

    from unetari.inference.job import prepare

    job = prepare(
        opened.source(channel, grey),
        loaded,
        scale=_find_scale(opened, loaded, rescale, scale),
        device=device,
        precision=precision,
        norm_statistics=norm_statistics,
        tile_shape=tile_shape,
        max_memory=None if memory is None else round(memory * 2**30),
        scores=scores is not None,
    )
    _announce(job, opened)
    try:
        record, counts = _run(job, opened, outputs, overwrite)
    except KeyboardInterrupt as interruption:
        show_message("Interrupted. No labels were written.")
        raise typer.Exit(INTERRUPTED) from interruption
    record_file(out).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _conclude(job, record, counts)
    for path in outputs:
        stdout().print(str(path), soft_wrap=True)


def record_file(labels: Path) -> Path:
    """Return where the record of a label file goes."""
    return labels.with_name(f"{labels.name}.json")


def _check_outputs(outputs: list[Path], image: Path, overwrite: bool) -> None:
    from unetari.storage.labels import check_output

    for path in outputs:
        check_output(path, inputs=[image], overwrite=overwrite)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OutputExistsError(f"{outputs[0]} is given for both labels and scores. Use two names.")
    record = record_file(outputs[0])
    if record.exists() and not overwrite:
        raise OutputExistsError(f"{record} exists already. Choose another name, or --overwrite.")


def _load(name: str, assume: list[str] | None, trust: bool) -> Model:
    """Load a model after the image is known to open: torch takes seconds."""
    model = load(name, assume, trust)
    for note in model.notes:
        show_message(note)
    return model


def _find_scale(
    image: ImageFile, model: Model, rescale: bool, scale: str | None
) -> tuple[float, ...] | None:
    from unetari.core.voxels import rescale_factors

    if rescale:
        return rescale_factors(micrometers(image), model.spec)
    return None if scale is None else parse_factors(scale, "--scale")


def _announce(job: Job, image: ImageFile) -> None:
    from unetari.core.shapes import check_shape

    show_message(describe_image(image))
    scale = None if job.scaling is None else job.scaling.factors
    report = check_shape(job.model.spec.config, job.source, scale=scale)
    for sentence in (*image.notes, *report.sentences()):
        show_message(sentence)
    if scale is None:
        show_voxel_sizes(image, job.model)
    show_message(job.describe())
    for warning in job.warnings:
        show_message(warning, warning=True)


def _run(
    job: Job, image: ImageFile, outputs: list[Path], overwrite: bool
) -> tuple[RunRecord, NDArray[np.int64]]:
    import numpy as np

    from unetari.inference.predict import drain_into, run
    from unetari.storage.labels import create_labels

    counts = np.zeros(job.model.spec.config.n_classes, np.int64)
    labels_path, *scores_path = outputs
    common: dict[str, Any] = {
        "voxel_size": image.voxel_size,
        "unit": image.unit,
        "overwrite": overwrite,
    }
    axes = job.source.label_axes
    with ExitStack() as files:
        labels = files.enter_context(
            create_labels(labels_path, job.labels_shape, job.labels_dtype, axes=axes, **common)
        )
        scores = None
        for path in scores_path:
            scores = files.enter_context(
                create_labels(path, job.scores_shape, np.float32, axes=f"C{axes}", **common)
            )
        for file in filter(None, (labels, scores)):
            if file.stored_axes != file.axes:
                show_message(f"{file.path.name} has its axes in the order {file.stored_axes}.")
        with catch_interrupts("Stopping; once more to give up.") as stopped:
            results = run(job, should_stop=stopped.is_set)
            record = drain_into(_watched(results, counts), labels, scores)
        if stopped.is_set():
            raise KeyboardInterrupt  # nothing is kept of what somebody wanted to stop
    record = record.replace(voxel_size=image.voxel_size, unit=image.unit)
    return record, counts


def _watched(
    results: Generator[TileResult, None, RunRecord], counts: NDArray[np.int64]
) -> Generator[TileResult, None, RunRecord]:
    """Pass results on, move the bar and count the voxels of each class."""
    import numpy as np

    with progress_bar(in_percent=True) as bar:
        task = bar.add_task("Voxels", total=1.0)
        while True:
            try:
                result = next(results)
            except StopIteration as end:
                record: RunRecord = end.value
                return record
            counts += np.bincount(result.labels.ravel(), minlength=len(counts))
            yield result
            bar.update(task, completed=result.progress)


def _conclude(job: Job, record: RunRecord, counts: NDArray[np.int64]) -> None:
    shares = 100 * counts / counts.sum()
    names = job.model.spec.labels
    classes = ", ".join(f"{name} {share:.1f} %" for name, share in zip(names, shares, strict=True))
    show_message(f"Done in {record.seconds:.1f} s on {record.device}: {classes}.")
    for finding in record.findings:
        show_message(finding, warning=True)
