"""The Qt side of the plugin, and the only place for it."""
