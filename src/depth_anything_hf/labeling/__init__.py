"""The data engine: label millions of images with a teacher, at the speed of the bare model, and lose none.

Data flows through the files in this order: `sources` (undecoded images, in parts), `plan` (blocks, and which process
labels which), `feeding` and `decoding` (worker processes), `labels` (batches on the device), `shards` (parquet, one
file a block), `manifest` (the finished set), all of it driven by `engine`.
"""
