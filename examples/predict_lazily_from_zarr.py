"""Segment a zarr tile by tile into another zarr; only one tile is in memory at a time."""

from __future__ import annotations

import zarr

from unetari import load_model, predict_tiles
from unetari.samples import nuclei_2d


def main() -> None:
    image = zarr.create_array(
        "nuclei.zarr", shape=(3, 510, 690), chunks=(1, 256, 256), dtype="uint16", overwrite=True
    )
    for time in range(image.shape[0]):
        image[time] = nuclei_2d(seed=time).image

    labels = zarr.create_array(
        "labels.zarr", shape=image.shape, chunks=(1, 256, 256), dtype="uint8", overwrite=True
    )
    model = load_model("nuclei-2d")
    for tile in predict_tiles(image, model, axes="TYX", tile_shape=(384, 384)):
        labels[tile.where] = tile.labels
        print(f"tile {tile.index + 1} of {tile.total}: {tile.where}")


if __name__ == "__main__":
    main()
