"""Protocols: what exactly is measured, as data that is printed into every result.

The papers state one sentence (scale and shift after MiDaS, at the original resolution); no split, cap or crop of their
evaluation was ever published, and the public harnesses disagree. Each protocol below names where its numbers are from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Top, bottom, left, right, as shares of the height and the width.
_SHARES = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen_kitti": (0.3324324, 0.91351351, 0.03594771, 0.96405229),
}
_NYU_CROP = (45, 471, 41, 601)  # of 480 x 640
ALIGNMENTS = ("scale_shift", "scale", "median", "none")  # "none" is for metric models alone
CROPS = ("none", "eigen_nyu", "eigen_kitti", "garg")


@dataclass(frozen=True)
class Protocol:
    """Describe an evaluation completely.

    Raises:
        ValueError: A crop that is not known.
    """

    name: str
    dataset: str  # reader in `data.readers`, or "folder"
    options: dict[str, Any] = field(default_factory=dict)  # of the reader: split, labels, ...
    images: int | None = None  # how many there must be; None for a folder of your own
    crop: str = "none"  # one of `CROPS`: which part of the ground truth counts
    min_depth: float | None = None  # nearest depth that counts, meters
    max_depth: float | None = (
        None  # farthest, meters; aligned disparity is floored at its inverse. None: of each image
    )
    alignment: str = "scale_shift"  # one of `ALIGNMENTS`, for relative models; metric models are scored as they are
    source: str = ""  # where these numbers are from
    resolution: int | None = (
        None  # shorter side of the network's input, pixels; None: each checkpoint's own, often 518
    )
    resize: str = (  # how the image is brought to the resolution
        "Depth Anything: aspect kept (not where its processor squeezes, as mini's), shorter side to the resolution, "
        "multiples of the patch, bicubic; others: own"
    )
    upsampling: str = (
        "Depth Anything: bilinear, aligned corners; others: their processor's"  # to the ground truth's size
    )
    averaging: str = "mean over images with labels"

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}; it must be one of {', '.join(CROPS)}.")

    @property
    def counts_pairs(self) -> bool:
        """Whether pairs of points in the right order are counted, as on DA-2K; else errors of depth are averaged."""
        return self.dataset == "da2k"

    def as_json(self) -> dict[str, Any]:
        """Return the settings that apply, for a result file."""
        settings = asdict(self)
        if self.counts_pairs:
            return {name: settings[name] for name in ("name", "dataset", "averaging", "source", "resolution")}
        return settings


def crop_mask(crop: str, height: int, width: int) -> torch.Tensor:
    """Mark the pixels that a crop keeps: `(height, width)`, bool, at the size of the ground truth.

    The crop is one of `CROPS`. `"eigen_nyu"` is fixed in pixels of 480 x 640 and raises a `ValueError` at another size; the
    others are shares of the image.

    Source: Eigen et al., 2014; Garg et al., 2016; the numbers as in the authors' metric code.

    Example:
        >>> crop_mask("eigen_nyu", 480, 640).sum().item()
        238560
    """
    import torch

    mask = torch.zeros(height, width, dtype=torch.bool)
    if crop == "none":
        return ~mask
    if crop == "eigen_nyu":
        if (height, width) != (480, 640):
            raise ValueError(f"crop 'eigen_nyu' belongs to 480 x 640 pixels, the ground truth has {height} x {width}.")
        top, bottom, left, right = _NYU_CROP
    else:
        shares = _SHARES[crop]
        top, bottom = (int(share * height) for share in shares[:2])
        left, right = (int(share * width) for share in shares[2:])
    mask[top:bottom, left:right] = True
    return mask


def _diode(name: str, images: int, **options: Any) -> Protocol:
    options = {"split": "val"} | options
    return Protocol(name, "diode", options, images, "none", 1e-3, 50.0, source=f"{_PLUMBLINE}; {_DIODE}")


_PLUMBLINE = "kmatzen/plumbline, REPRODUCTIONS.md"
_AC = "HVision-NKU/DepthAnythingAC, evaluate_depth.py"
_MARIGOLD = "Marigold, config/dataset"
_DIODE = "the papers' DIODE column agrees with the indoor images alone"
_ALL = (
    Protocol(
        "nyuv2", "nyuv2", {"split": "test", "labels": "raw"}, 654, "eigen_nyu", 1e-3, 10.0,
        source=f"{_PLUMBLINE}: V2 S/B/L .0510/.0456/.0428, papers .053/.049/.045",
    ),
    Protocol(
        "nyuv2-filled", "nyuv2", {"split": "test", "labels": "filled"}, 654, "eigen_nyu", 1e-3, 10.0,
        source=f"{_MARIGOLD}; V2-S .0621 in {_PLUMBLINE}",
    ),
    Protocol(
        "nyuv2-no-crop", "nyuv2", {"split": "test", "labels": "filled"}, 654, "none", 1e-3, 10.0, source=_AC
    ),
    Protocol(
        "kitti", "kitti", {"labels": "annotated"}, 652, "garg", 1e-3, 80.0,
        source=f"{_PLUMBLINE}: V2 S/B/L .0770/.0756/.0710, papers .078/.078/.074",
    ),
    Protocol(
        "kitti-eigen-crop", "kitti", {"labels": "annotated"}, 652, "eigen_kitti", 1e-5, 80.0,
        source=_MARIGOLD,
    ),
    Protocol(
        "kitti-no-crop", "kitti", {"labels": "annotated"}, 652, "none", 1e-3, 80.0,
        source=f"{_AC} (it builds the Garg mask and does not use it)",
    ),
    Protocol(
        "kitti-raw", "kitti", {"labels": "raw"}, 697, "garg", 1e-3, 80.0,
        source="Eigen et al., 2014: projected LiDAR of all 697 images",
    ),
    Protocol("sintel", "sintel", {"render_pass": "final"}, 1064, "none", None, 70.0, source=f"{_PLUMBLINE}: V2-L .232"),
    Protocol("sintel-clean", "sintel", {"render_pass": "clean"}, 1064, "none", None, 70.0, source=f"{_PLUMBLINE}: .222"),
    Protocol("eth3d", "eth3d", {}, 454, "none", None, 80.0, source=f"{_PLUMBLINE}: V2 S/B/L .101/.094/.089"),
    Protocol("eth3d-200", "eth3d", {}, 454, "none", None, 200.0, source=_AC),
    Protocol("ddad", "ddad", {"split": "val"}, 3950, "none", 1e-3, 200.0, source="DDAD's val split, CAMERA_01; V1 only"),
    _diode("diode", 771),
    _diode("diode-indoor", 325, domain="indoors"),
    _diode("diode-outdoor", 446, domain="outdoor"),
    Protocol("da2k", "da2k", averaging="over pairs", source="Depth Anything V2, section 6"),
    Protocol("folder", "folder", source="records of your own"),
)  # fmt: skip
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}


def protocol_for(dataset: str, name: str | None = None) -> Protocol:
    """Find the protocol of a dataset, or its variant `name`.

    Raises:
        ValueError: Unknown, or of another dataset.

    Example:
        >>> protocol_for("kitti", "kitti-eigen-crop").crop
        'eigen_kitti'
    """
    known = [protocol.name for protocol in _ALL if protocol.dataset == dataset]
    if not known:
        every = sorted({protocol.dataset for protocol in _ALL})
        raise ValueError(f"dataset is {dataset!r}; there are protocols for {', '.join(every)}.")
    if (name or dataset) not in known:
        raise ValueError(f"protocol {name!r} is none of {dataset}'s; it has {', '.join(known)}.")
    return PROTOCOLS[name or dataset]
