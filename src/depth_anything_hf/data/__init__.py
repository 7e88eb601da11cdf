"""Records: one schema for labeled images, pseudo-labels and user data, and the readers that yield it."""
