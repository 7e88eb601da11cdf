"""Label millions of images with a teacher, at the speed of the bare model, without losing any.

Data flows through the files in this order: `sources` (undecoded images, in parts), `plan` (blocks, and their
processes), `feeding` and `decoding` (worker processes), `labels` (batches on the device), `shards` (parquet, one file
per block), `manifest` (the finished set). `engine` runs them all.
"""
