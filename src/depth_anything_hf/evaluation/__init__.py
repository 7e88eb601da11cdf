"""Evaluation: metrics of one image, and the alignment that a relative model needs before them."""
