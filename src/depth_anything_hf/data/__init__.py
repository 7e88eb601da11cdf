"""Records: one schema for labelled images, pseudo-labels and user data, and the readers that yield it."""
