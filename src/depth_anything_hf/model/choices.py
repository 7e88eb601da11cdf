"""Names of the model's variants. Imports nothing, so that a command line does not wait for PyTorch."""

SIZES = ("small", "base", "large", "giant")
VERSIONS = ("v1", "v2")
ADAPTED_DECODERS = ("full", "lora", "frozen")  # how the decoder is trained beside a LoRA adapter
