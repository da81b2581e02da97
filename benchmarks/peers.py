"""Other programs, each run as its documentation does, around a network that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.contenders import Apply, Setting

CAREAMICS_OVERLAP = 48
"""The default of careamics, per pair of tiles."""
MULTIPLE = 8
"""A size that pools evenly in every network here is a multiple of it."""


def fit(tile: Sequence[int], image: NDArray[np.float32]) -> tuple[int, ...]:
    """Shorten a tile to the image, for programs that pad nothing there."""
    sizes = zip(tile, image.shape[1:], strict=True)
    return tuple(min(side, size // MULTIPLE * MULTIPLE) for side, size in sizes)


def monai(setting: Setting) -> Apply:
    """MONAI: windows with an overlap of a quarter, averaged."""
    from monai.inferers.utils import sliding_window_inference

    def apply(image: NDArray[np.float32]) -> Tensor:
        batch = torch.from_numpy(image)[None]
        scores = sliding_window_inference(batch, setting.tile, 1, setting.network)
        return cast("Tensor", scores)[0]  # the network gives one, so this is no tuple

    return apply


def nnunet(setting: Setting) -> Apply:
    """nnU-Net: windows with an overlap of one half, weighed by a Gaussian; no mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = setting.network
    predictor.configuration_manager = SimpleNamespace(patch_size=setting.tile)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=setting.classes)

    def apply(image: NDArray[np.float32]) -> Tensor:
        data = torch.from_numpy(image if setting.dim == 3 else image[:, None])
        scores: Tensor = predictor.predict_sliding_window_return_logits(data)
        return scores if setting.dim == 3 else scores[:, 0]

    return apply


def torch_em(setting: Setting) -> Apply:
    """torch-em: blocks with a halo, mirrored beyond the image."""
    from torch_em.util.prediction import predict_with_halo

    halo = list(setting.halo)
    block = [size - 2 * around for size, around in zip(setting.tile, halo, strict=True)]

    def apply(image: NDArray[np.float32]) -> NDArray[np.float32]:
        output = np.zeros((setting.classes, *image.shape[1:]), np.float32)
        found: NDArray[np.float32] = predict_with_halo(
            image,
            setting.network,
            ["cpu"],
            block,
            halo,
            output=output,
            preprocess=None,
            with_channels=True,
            disable_tqdm=True,
        )
        return found

    return apply


def elektronn3(setting: Setting) -> Apply:
    """elektronn3: tiles with an overlap, zeros beyond the image."""
    from elektronn3.inference import Predictor

    overlap = setting.halo
    tile = [size - 2 * around for size, around in zip(setting.tile, overlap, strict=True)]

    def apply(image: NDArray[np.float32]) -> Tensor:
        predictor = Predictor(
            setting.network,
            device="cpu",
            batch_size=1,
            tile_shape=tile,
            overlap_shape=overlap,
            offset=(0,) * setting.dim,
            out_shape=(setting.classes, *image.shape[1:]),
            apply_softmax=False,
        )
        scores: Tensor = predictor.predict(image[None])
        return scores[0]

    return apply


def bioimageio(setting: Setting) -> Apply:
    """bioimageio.core: blocks with a halo, mirrored beyond the image."""
    from bioimageio.core.axis import AxisId
    from bioimageio.core.block import split_tensor_into_blocks
    from bioimageio.core.common import Halo
    from bioimageio.core.tensor import Tensor as NamedTensor

    names = [AxisId(name) for name in ("channel", *"zyx"[-setting.dim :])]

    def apply(image: NDArray[np.float32]) -> NDArray[np.float32]:
        tile = fit(setting.tile, image)
        _, blocks = split_tensor_into_blocks(
            NamedTensor(image, dims=names),
            dict(zip(names, (1, *tile), strict=True)),
            halo={
                name: Halo(around, around)
                for name, around in zip(names[1:], setting.halo, strict=True)
            },
            pad_mode="reflect",
        )
        scores = np.empty((setting.classes, *image.shape[1:]), np.float32)
        for block in blocks:
            found = setting.network(torch.from_numpy(block.data.to_numpy())[None])[0].numpy()
            where = tuple(slice(*_ends(block.inner_slice[name])) for name in names[1:])
            local = tuple(slice(*_ends(block.local_slice[name])) for name in names[1:])
            scores[(slice(None), *where)] = found[(slice(None), *local)]
        return scores

    return apply


def _ends(span: Any) -> tuple[int, int]:
    return span.start, span.stop


def careamics(setting: Setting) -> Apply:
    """careamics: tiles with an overlap of 48 voxels per pair; its own plan and stitching."""
    from careamics.dataset.image_region_data import ImageRegionData
    from careamics.dataset.patching.tiled_patching import TiledPatching
    from careamics.lightning.prediction.stitch_prediction import stitch_single_sample

    axes = "CYX" if setting.dim == 2 else "CZYX"

    def apply(image: NDArray[np.float32]) -> NDArray[np.float32]:
        tile = fit(setting.tile, image)
        overlap = [min(CAREAMICS_OVERLAP, size // 2) for size in tile]
        shape = (1, *image.shape)
        tiles = []
        for spec in TiledPatching([shape], tile, overlap).tile_specs:
            corner = zip(spec["coords"], tile, strict=True)
            box = tuple(slice(start, start + size) for start, size in corner)
            part = torch.from_numpy(image[(slice(None), *box)].copy())
            scores = setting.network(part[None])[0].numpy()
            tiles.append(
                ImageRegionData(
                    data=scores,
                    source="array",
                    data_shape=shape,
                    dtype="float32",
                    axes=axes,
                    target_axes=axes,
                    original_data_shape=image.shape,
                    region_spec=spec,
                    additional_metadata={},
                )
            )
        return np.asarray(stitch_single_sample(tiles))

    return apply


BUILDERS: dict[str, Callable[[Setting], Apply]] = {
    "MONAI": monai,
    "nnU-Net": nnunet,
    "torch-em": torch_em,
    "elektronn3": elektronn3,
    "bioimageio.core": bioimageio,
    "careamics": careamics,
}
MODULES = {
    "MONAI": "monai",
    "nnU-Net": "nnunetv2",
    "torch-em": "torch_em",
    "elektronn3": "elektronn3",
    "bioimageio.core": "bioimageio.core",
    "careamics": "careamics",
}
DISTRIBUTIONS = {
    "MONAI": "monai",
    "nnU-Net": "nnunetv2",
    "torch-em": "torch_em",
    "elektronn3": "elektronn3",
    "bioimageio.core": "bioimageio.core",
    "careamics": "careamics",
}
