"""A model as an ONNX file, which is written only after it computed the same as PyTorch."""
