"""Records: one schema for labeled images, pseudo-labels and user data, and their readers."""
