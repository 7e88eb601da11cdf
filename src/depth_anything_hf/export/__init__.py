"""Export a model as ONNX, checked against PyTorch before it is written, or its encoder; prove that stock classes load it."""

import math

# Number formats of an ONNX file. The largest error of a file that is written, as a share of the prediction's spread: float16
# rounds to 5e-4, a hundredth of its bound; the error of 8 bits is only reported.
LARGEST_ERROR = {"float32": 1e-3, "float16": 5e-2, "int8": math.inf}
