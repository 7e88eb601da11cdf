"""The two spaces of a depth map. Imports nothing, so that a command line need not wait for PyTorch."""

SPACES = ("depth", "disparity")


def check_space(space: str | None) -> str:
    """Return `space` if it is one of `"depth"` and `"disparity"`, and raise a `ValueError` otherwise."""
    if space not in SPACES:
        raise ValueError(
            f"space is {space!r}; it must be one of {SPACES}: 'depth' is meters along the optical axis, 'disparity' "
            "is inverse depth at any scale. Pass the space of your maps."
        )
    return space
