"""From image and label pairs to a model file, as a generator of progress."""
