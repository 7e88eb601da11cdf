"""A report of `evaluate`, as the tests of cards read it."""

from depth_anything_hf.evaluation.protocols import PROTOCOLS

MINE = {"abs_rel": 0.12345, "delta1": 0.9, "rmse": 0.5, "images": 654}
PRIOR = {"abs_rel": 0.3, "delta1": 0.5, "rmse": 1.5, "images": 654}
NYU = {
    "protocol": PROTOCOLS["nyuv2"].as_json(),
    "images_found": 654,
    "versions": {"torch": "2.9"},
    "scores": {"/home/me/mine": MINE, "prior": PRIOR},
    "model": "/home/me/mine",
}
