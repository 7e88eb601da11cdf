"""Number formats of an ONNX file and their error bounds. Imports nothing heavy, so that a command line need not wait."""

import math

# Largest error of a file that is written, as a share of the prediction's spread. Float16 rounds to 5e-4, a hundredth of its
# bound; the error of 8 bits is only reported.
LARGEST_ERROR = {"float32": 1e-3, "float16": 5e-2, "int8": math.inf}
