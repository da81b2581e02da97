"""Between napari layers and the engine; no Qt."""
