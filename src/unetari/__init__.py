"""unetari: 2D and 3D U-Nets on the image that is open in napari.

The names below load on first use, so that importing the package costs
neither torch nor napari.

Examples
--------
>>> import unetari
>>> unetari.compute_max_depth(24)
[24, 12, 6, 3]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unetari.core.config import UNetConfig
    from unetari.core.diagram import draw_svg
    from unetari.core.normalization import Normalization
    from unetari.core.shapes import check_shape, compute_max_depth, compute_possible_shapes
    from unetari.core.tiles import plan_tiles
    from unetari.core.voxels import rescale_factors
    from unetari.inference.predict import predict, predict_tiles
    from unetari.model.checkpoint import Model, bundled_models, load_model, save_model
    from unetari.model.export import export_model
    from unetari.model.keep import keep_model
    from unetari.model.unet import UNet

__version__ = "0.1.0"

__all__ = [
    "Model",
    "Normalization",
    "UNet",
    "UNetConfig",
    "__version__",
    "bundled_models",
    "check_shape",
    "compute_max_depth",
    "compute_possible_shapes",
    "draw_svg",
    "export_model",
    "keep_model",
    "load_model",
    "plan_tiles",
    "predict",
    "predict_tiles",
    "rescale_factors",
    "save_model",
]

_HOMES = {
    "Model": "unetari.model.checkpoint",
    "Normalization": "unetari.core.normalization",
    "UNet": "unetari.model.unet",
    "UNetConfig": "unetari.core.config",
    "bundled_models": "unetari.model.bundled",
    "check_shape": "unetari.core.shapes",
    "compute_max_depth": "unetari.core.shapes",
    "compute_possible_shapes": "unetari.core.shapes",
    "draw_svg": "unetari.core.diagram",
    "export_model": "unetari.model.export",
    "keep_model": "unetari.model.keep",
    "load_model": "unetari.model.checkpoint",
    "plan_tiles": "unetari.core.tiles",
    "predict": "unetari.inference.predict",
    "predict_tiles": "unetari.inference.predict",
    "rescale_factors": "unetari.core.voxels",
    "save_model": "unetari.model.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
