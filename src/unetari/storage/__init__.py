"""Image files in, label files out; no torch."""
