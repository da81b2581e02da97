"""Sample images: generated ones with their true masks, and real ones to fetch.

The generated images imitate what a fluorescence microscope makes of nuclei:
chromatin texture, uneven staining and illumination, the blur of the optics,
haze from out-of-focus light, photon noise, and the offset and noise of the
detector. The optical blur is a Gaussian approximation of the point spread
function (Zhang et al. 2007, https://doi.org/10.1364/AO.46.001819): laterally
sigma = 0.21 wavelength / NA, axially sigma = 0.85 n wavelength / NA**2.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import shorten
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from unetari.errors import ImageFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """An image with what is known about it."""

    image: NDArray[Any]
    """Intensities."""
    mask: NDArray[np.uint16] | None
    """The true instances, 0 for background; None for real images."""
    axes: str
    """One letter per axis of the image."""
    voxel_size: dict[str, float] = field(default_factory=dict)
    """Size per spatial axis in micrometre."""
    name: str = ""
    """Short name, such as "nuclei 2D"."""


@dataclass(frozen=True)
class _Scene:
    """Everything that makes up a generated image; lengths in micrometre, axes as in `axes`."""

    name: str
    axes: str
    shape: tuple[int, ...]
    voxel_size: tuple[float, ...]
    count: int
    radii: tuple[tuple[float, float], ...]
    """Smallest and largest semi-axis, longest axis first."""
    extent: float
    """Radius of the ellipsoid that holds all centres, relative to the image; 2 means anywhere."""
    flat: bool
    """Whether the light of the whole thickness of a nucleus reaches its pixel (widefield)."""
    mitotic: float
    """Share of condensed, bright nuclei."""
    texture: float
    """Contrast of the chromatin."""
    wavelength: float
    numerical_aperture: float
    refractive_index: float
    haze: tuple[float, float]
    """Share of the light that scatters, and how far."""
    depth: float
    """Depth after which the light has faded to 37 %."""
    photons: float
    """Photons per pixel of an average nucleus."""
    background: float
    """Photons per pixel of the background."""
    gain: float
    """Grey values per photon."""
    read_noise: float
    """Grey values."""
    offset: float
    """Grey values."""


_SCENE_2D = _Scene(
    name="nuclei 2D",
    axes="YX",
    shape=(510, 690),
    voxel_size=(0.325, 0.325),
    count=120,
    radii=((4.2, 6.6), (3.0, 4.4)),
    extent=2.0,
    flat=True,
    mitotic=0.05,
    texture=1.0,
    # Hoechst through a 20x dry objective, on a camera with pixels of 6.5 um.
    wavelength=0.461,
    numerical_aperture=0.75,
    refractive_index=1.0,
    haze=(0.25, 4.0),
    depth=math.inf,
    photons=260.0,
    background=22.0,
    gain=2.2,
    read_noise=3.5,
    offset=100.0,
)
_SCENE_3D = _Scene(
    name="nuclei 3D",
    axes="ZYX",
    shape=(40, 200, 200),
    voxel_size=(1.75, 0.8, 0.8),
    count=60,
    radii=((7.5, 10.0), (6.3, 8.3), (6.0, 7.5)),
    extent=0.85,
    flat=False,
    mitotic=0.03,
    texture=0.8,
    # A red fluorescent histone, in water, through a confocal microscope.
    wavelength=0.61,
    numerical_aperture=0.75,
    refractive_index=1.33,
    haze=(0.08, 5.0),
    depth=110.0,
    photons=9.0,
    background=0.3,
    gain=42.0,
    read_noise=2.5,
    offset=100.0,
)


def nuclei_2d(seed: int = 0) -> Sample:
    """Generate nuclei of cultured cells as a widefield microscope shows them.

    Parameters
    ----------
    seed
        The same seed gives the same image.

    Returns
    -------
    Sample
        uint16 image (Y, X) of 510 x 690 pixels of 0.325 um, and its uint16
        instance mask.

    Examples
    --------
    >>> sample = nuclei_2d()
    >>> sample.image.shape, sample.image.dtype, sample.voxel_size
    ((510, 690), dtype('uint16'), {'Y': 0.325, 'X': 0.325})
    """
    return _generate(_SCENE_2D, seed)


def nuclei_3d(seed: int = 0) -> Sample:
    """Generate nuclei of an embryo as a confocal microscope shows them.

    Parameters
    ----------
    seed
        The same seed gives the same image.

    Returns
    -------
    Sample
        uint16 image (Z, Y, X) of 40 x 200 x 200 voxels of 1.75 x 0.8 x 0.8 um,
        and its uint16 instance mask.
    """
    return _generate(_SCENE_3D, seed)


def _generate(scene: _Scene, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    mask, stain = _place_nuclei(scene, rng)
    light = _blur(stain * _chromatin(scene, rng), scene) * _illumination(scene)
    image = _detect(light, scene, rng)
    voxel_size = dict(zip(scene.axes, scene.voxel_size, strict=True))
    return Sample(image, mask, scene.axes, voxel_size, scene.name)


def _place_nuclei(scene: _Scene, rng: np.random.Generator) -> tuple[NDArray[np.uint16], Array]:
    """Return the instances, none overlapping, and the amount of stain per voxel."""
    mask = np.zeros(scene.shape, np.uint16)
    stain = np.zeros(scene.shape, np.float32)
    dents = _noise(scene, 2.2, rng)
    label = 0
    for _ in range(scene.count * 6):
        if label == scene.count:
            break
        centre = _choose_centre(scene, rng)
        radii, brightness = _choose_nucleus(scene, rng)
        box = _box_around(centre, max(radii), scene)
        distance = _elliptic_distance(box, centre, radii, scene, rng) * (1 + 0.1 * dents[box])
        body = _largest_piece(distance < 1)
        if not body.any() or mask[box][body].any():
            continue
        label += 1
        mask[box][body] = label
        thickness = np.sqrt(1 - distance[body] ** 2) if scene.flat else 1.0
        stain[box][body] = brightness * (0.35 + 0.65 * thickness)
    return mask, stain


def _choose_centre(scene: _Scene, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a point in micrometre within the ellipsoid of the scene."""
    size = np.multiply(scene.shape, scene.voxel_size)
    while True:
        point = rng.uniform(-1, 1, len(size))
        if np.linalg.norm(point) < scene.extent:
            return (1 + point) / 2 * size


def _choose_nucleus(scene: _Scene, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Draw semi-axes and brightness; dividing nuclei are condensed plates, and bright."""
    radii = np.array([rng.uniform(*limits) for limits in scene.radii])
    brightness = float(rng.lognormal(0, 0.3))
    if rng.random() < scene.mitotic:
        return radii * [0.8, *[0.45] * (len(radii) - 1)], 2.5 * brightness
    return radii, brightness


def _box_around(centre: NDArray[np.float64], radius: float, scene: _Scene) -> tuple[slice, ...]:
    # A dent can push the outline out as well, by a third at most.
    reach = 1.35 * radius
    return tuple(
        slice(max(0, math.floor((middle - reach) / step)), math.ceil((middle + reach) / step) + 1)
        for middle, step in zip(centre, scene.voxel_size, strict=True)
    )


def _elliptic_distance(
    box: tuple[slice, ...],
    centre: NDArray[np.float64],
    radii: NDArray[np.float64],
    scene: _Scene,
    rng: np.random.Generator,
) -> Array:
    """Return the distance from the centre in a randomly turned ellipsoid, 1 on its surface."""
    axes = [
        np.arange(*part.indices(size)) * step - middle
        for part, size, step, middle in zip(box, scene.shape, scene.voxel_size, centre, strict=True)
    ]
    rotation = np.linalg.qr(rng.normal(size=(len(radii), len(radii))))[0]
    turned = np.tensordot(rotation / radii[:, None], np.meshgrid(*axes, indexing="ij"), 1)
    return np.asarray(np.sqrt(np.square(turned).sum(axis=0)), np.float32)


def _largest_piece(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop what a deep dent cut off."""
    from scipy.ndimage import label

    pieces, count = label(body)
    if count < 2:
        return body
    return np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def _chromatin(scene: _Scene, rng: np.random.Generator) -> Array:
    """Return the texture of the stain: fine grain, coarse patches, dark nucleoli."""
    grain = 0.16 * _noise(scene, 0.35, rng) + 0.10 * _noise(scene, 1.2, rng)
    nucleoli = np.clip(_noise(scene, 0.8, rng) - 1.4, 0, 1)
    return np.asarray(np.clip(1 + scene.texture * (grain - 0.5 * nucleoli), 0.1, None), np.float32)


def _noise(scene: _Scene, length: float, rng: np.random.Generator) -> Array:
    """Return smooth noise of unit variance, with structures of `length` micrometre."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal(scene.shape, np.float32)
    smooth = gaussian_filter(white, np.divide(length, scene.voxel_size), truncate=3)
    return np.asarray(smooth / smooth.std(), np.float32)


def _blur(stain: Array, scene: _Scene) -> Array:
    """Spread the light by the optics, and a part of it further, by scattering."""
    from scipy.ndimage import gaussian_filter

    share, reach = scene.haze
    lateral = 0.21 * scene.wavelength / scene.numerical_aperture
    axial = 0.85 * scene.refractive_index * scene.wavelength / scene.numerical_aperture**2
    sigma = [axial if axis == "Z" else lateral for axis in scene.axes]
    sharp = gaussian_filter(stain, np.divide(sigma, scene.voxel_size))
    hazy = gaussian_filter(stain, np.divide(reach, scene.voxel_size), truncate=3)
    return np.asarray((1 - share) * sharp + share * hazy, np.float32)


def _illumination(scene: _Scene) -> Array:
    """Return the share of light per voxel: brightest off the middle, fading with depth."""
    light = np.ones(scene.shape, np.float32)
    for axis, (letter, size) in enumerate(zip(scene.axes, scene.shape, strict=True)):
        place = np.linspace(-1, 1, size)
        profile = 1 - 0.15 * (place - 0.3) ** 2
        if letter == "Z":
            profile = np.exp(-np.arange(size) * scene.voxel_size[axis] / scene.depth)
        light *= np.expand_dims(profile, [a for a in range(light.ndim) if a != axis])
    return light


def _detect(light: Array, scene: _Scene, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Count photons, and turn the counts into grey values as a detector does."""
    counts = rng.poisson(scene.photons * light + scene.background)
    noise = scene.read_noise * rng.standard_normal(scene.shape, np.float32)
    return np.clip(scene.gain * counts + noise + scene.offset, 0, 65535).astype(np.uint16)


def cells_3d() -> Sample:
    """Fetch a real confocal volume: nuclei of cultured cells, from the Allen Institute.

    Returns
    -------
    Sample
        uint16 image (Z, Y, X) of 60 x 256 x 256 voxels of 0.29 x 0.26 x 0.26 um.

    Raises
    ------
    ImageFileError
        If the image is not in the cache and cannot be downloaded.
    """
    data = _fetch("cells3d")
    size = {"Z": 0.29, "Y": 0.26, "X": 0.26}
    # Channel 0 shows membranes.
    return Sample(np.ascontiguousarray(data[:, 1]), None, "ZYX", size, "cells 3D, nuclei")


def human_mitosis() -> Sample:
    """Fetch a real 2D image: nuclei of human cells, some dividing (Moffat et al. 2006).

    Returns
    -------
    Sample
        uint8 image (Y, X) of 512 x 512 pixels; the pixel size is not known.

    Raises
    ------
    ImageFileError
        If the image is not in the cache and cannot be downloaded.
    """
    return Sample(_fetch("human_mitosis"), None, "YX", {}, "human mitosis")


def _fetch(name: str) -> NDArray[Any]:
    """Return an image of scikit-image, downloading it on first use."""
    from skimage import data

    load: Callable[[], NDArray[Any]] = getattr(data, name)
    try:
        with _quiet_download():
            return np.asarray(load())
    # requests raises OSErrors; a broken download gives a ValueError of pooch's hash check.
    except (OSError, ValueError) as error:
        raise ImageFileError(
            f"The sample {name} cannot be downloaded: {_cause(error)}. It is fetched once, by "
            "scikit-image, and needs the internet then. The generated samples work without."
        ) from error


@contextmanager
def _quiet_download() -> Iterator[None]:
    """Keep pooch, which scikit-image fetches with, from telling stderr of every attempt."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cause(error: OSError | ValueError) -> str:
    """Return a short reason; the texts of requests are long and made for its developers."""
    # Errors of requests know what was asked for and, if anything came back, the response.
    response, request = getattr(error, "response", None), getattr(error, "request", None)
    if response is not None:
        return f"the server answered {response.status_code} ({response.reason})"
    if request is not None:
        return f"{urlsplit(request.url).hostname} cannot be reached"
    if isinstance(error, ValueError):
        return "what arrived is damaged"
    return error.strerror or shorten(str(error), 200) or type(error).__name__
