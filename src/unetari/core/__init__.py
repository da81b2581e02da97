"""Settings, axes, sizes and tiles: numpy and pydantic, no torch."""
