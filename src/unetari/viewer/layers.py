"""From a napari Image layer to an `ImageSource`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unetari.core.axes import AxesGuess, guess_axes
from unetari.core.source import ImageSource

if TYPE_CHECKING:
    from napari.layers import Image

    from unetari.core.source import ArrayLike


def layer_data(layer: Image) -> ArrayLike:
    """Return the array of an Image layer; of a multiscale one, the full resolution."""
    data: ArrayLike = layer.data[0] if layer.multiscale else layer.data
    return data


def guess_layer_axes(layer: Image, dim: int | None = None) -> AxesGuess:
    """Guess what each axis of an Image layer means.

    Parameters
    ----------
    layer : napari.layers.Image
        RGB flag, axis labels, units and sizes are what the guess rests on.
    dim : int, optional
        Dimensions of the network.

    Returns
    -------
    AxesGuess
        One letter per axis of the data, the S of an RGB image included.

    Raises
    ------
    AxesError
        If the image has too few or too many axes.
    """
    return guess_axes(
        layer_data(layer).shape,
        rgb=layer.rgb,
        axis_labels=tuple(layer.axis_labels),
        units=tuple(layer.units),
        dim=dim,
    )


def layer_source(
    layer: Image,
    axes: str | None = None,
    channel: int | None = None,
    grey: bool = False,
    *,
    dim: int | None = None,
) -> ImageSource:
    """Describe an Image layer as a source of voxels; nothing is read or copied.

    Parameters
    ----------
    layer : napari.layers.Image
        Any Image layer: RGB, multiscale, numpy, dask or zarr.
    axes : str, optional
        One letter per axis of the data; the S of an RGB layer may be left out.
        Default: guessed.
    channel : int, optional
        Use this channel only.
    grey : bool
        Turn RGB into one channel.
    dim : int, optional
        Dimensions of the network, which helps the guess.

    Returns
    -------
    ImageSource

    Raises
    ------
    AxesError
        If the axes, the channel or grey do not fit the image.
    """
    if axes is None:
        axes = guess_layer_axes(layer, dim).axes
    elif layer.rgb and "S" not in axes.upper():
        axes = f"{axes}S"
    return ImageSource(layer_data(layer), axes, channel=channel, grey=grey)
