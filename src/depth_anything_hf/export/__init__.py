"""Export a model as ONNX, checked against PyTorch before it is written, or its encoder; prove that stock classes load it."""
