"""Tiled prediction, as a generator of finished tiles."""
