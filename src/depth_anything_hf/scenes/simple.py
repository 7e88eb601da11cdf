"""Procedural scenes with exact planar depth, sky and classes, rendered by analytic ray casting over batched tensors.

Pixels meet only elementwise, correctly rounded operations, so that a seed's bytes do not depend on its batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.scenes.simple_layout import BALL, BOX, CLASSES, EMPTY, SHAPES, camera_axes, draw_scene

FAR = 80.0  # meters; whatever lies beyond is sky
_TEXTURES = ("flat", "checker", "stripes", "noise", "tiles", "blobs", "marble")
_NOISE = torch.from_numpy(np.random.default_rng(0).random((1, 1, 32, 32, 32), np.float32))


# Color hints at the material, but not reliably, as in life.
_DAY = ((0.12, 0.14, 0.08), (0.35, 0.38, 0.25)), ((0.4, 0.4, 0.4), (0.8, 0.75, 0.7)), ((0, 0, 0), (0.9, 0.9, 0.9))


@dataclass(frozen=True)
class Domain:
    """Describe how the images of a domain look; the geometry of a seed is the same in every domain.

    Weather and camera describe the worst scene: each scene draws how much of them it gets, from none to all.
    """

    name: str
    textures: tuple[str, ...] = _TEXTURES[:4]  # families that surfaces draw from
    palettes: tuple = _DAY  # darkest and lightest linear RGB of the floor, of walls and buildings, and of things
    lights: tuple = ((0.9, 0.8, 0.8), (0.3, 0.3, 0.3), (0.2, 0.3, 0.8), (0.6, 0.7, 0.9))  # lamp, shade, zenith, haze
    elevation: tuple[float, float] = (35.0, 70.0)  # of the sun, degrees; indoors the lamp hangs the higher
    fog: float = 0.0  # 1 hides half of the contrast at the scene's typical distance
    exposure: tuple[float, float] = (0.8, 1.1)  # gain of the linear image
    cast: tuple[float, float] = (1.0, 1.0)  # gain of each of its colors
    noise: float = 0.0  # standard deviation of the shot noise of a white pixel
    blur: float = 0.0  # weight of each neighbor in a three-tap blur, in [0, 1/3]
    vignetting: float = 0.0  # fraction of light lost in the corners, in [0, 1]
    outdoors: float = 0.4  # share of streets and plains; the rest are rooms and table-tops


LABELED_DOMAIN = Domain("rendered")
_CAMERA: dict[str, Any] = {"exposure": (0.2, 3.0), "cast": (0.35, 2.0), "noise": 0.4, "blur": 0.33, "vignetting": 0.5}
UNLABELED_DOMAIN = Domain("bad-weather", _TEXTURES[4:], elevation=(18, 50), fog=0.6, **_CAMERA)


@dataclass(frozen=True)
class SceneBatch:
    """Store rendered scenes and their exact labels."""

    images: torch.Tensor  # (batch, 3, height, width) uint8, gamma-encoded RGB
    depth: torch.Tensor  # (batch, height, width) float32, planar depth (z along the optical axis) in meters, 0 at sky
    sky: torch.Tensor  # (batch, height, width) bool, where the ray of a pixel's center hits nothing nearer than FAR
    intrinsics: torch.Tensor  # (batch, 4) float32, fx, fy, cx, cy in pixels; the first pixel's center is (0.5, 0.5)
    classes: torch.Tensor | None  # (batch, height, width) uint8, index in `CLASSES` of what is hit; None = not known


def _tabulate(seed: int, scene: SimpleNamespace, domain: Domain) -> dict[str, np.ndarray]:
    """Return vectors (3,), scalars (), the table (20, slots): center, half sizes, yaw, shape and material, and its classes."""
    rng = np.random.default_rng([seed, 1])
    look, rows = rng.random((len(SHAPES), 11)), np.tile(EMPTY, (len(SHAPES), 1))
    for shape in range(3):
        own, start = [solid for solid in scene.solids if solid[0] == shape], np.searchsorted(SHAPES, shape)
        rows[start : start + len(own)] = np.reshape(own, (-1, 8))
    texture = [_TEXTURES.index(domain.textures[int(u * len(domain.textures))]) for u in look[:, 0]]
    period = rows[:, 4:7].max(1).clip(max=0.15 * scene.extent) * (0.5 + look[:, 1])
    classes = np.array([CLASSES.index(thing) for thing in ("box", "ball", "rod")])[SHAPES]
    classes[: len(scene.built)] = [CLASSES.index(name) for name in scene.built]
    role = np.where(np.arange(len(rows)) < len(scene.built), np.arange(len(rows)) > 0, 2)  # 0 floor, 1 built, 2 thing
    yaw, (dark, light) = rows[:, 7], np.tile(np.array(domain.palettes)[role], 2).transpose(1, 0, 2)
    material = (texture, period, look[:, 2:5], dark + (light - dark) * look[:, 5:])
    right, down, forward = camera_axes(scene.heading, scene.pitch, scene.roll)
    rise, turn = math.radians(rng.uniform(*domain.elevation)), rng.uniform(0, math.tau)
    share = rng.random()  # of the domain's weather and camera trouble
    lowest, highest = np.log(domain.cast)
    gain = share * (rng.uniform(*np.log(domain.exposure)) + rng.uniform(lowest, highest, 3))
    lamp = scene.span * (math.cos(rise) * math.cos(turn), math.cos(rise) * math.sin(turn), math.sin(rise))
    return {
        "table": np.column_stack((rows[:, 1:7], np.cos(yaw), np.sin(yaw), SHAPES, *material)).T,
        "classes": classes,
        **{"right": right, "down": down, "forward": forward, "eye": scene.eye},
        **{"focal": 0.5 / math.tan(scene.fov / 2), "lamp": lamp, "reach": scene.span.max()},
        **dict(zip(("light", "ambient", "zenith", "horizon"), np.array(domain.lights), strict=True)),
        **{"fog": share * domain.fog / scene.extent, "gain": np.exp(gain)},
        **{"noise": share**2 * domain.noise, "blur": share * domain.blur},
    }


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True))  # a sum in a fixed order


def _turn(vector: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    return torch.stack([cosine * vector[0] + sine * vector[1], cosine * vector[1] - sine * vector[0], vector[2]])


def _ray_box(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where rays enter and leave the cube [-1, 1]^3, in units of `direction`; enter > leave is a miss."""
    middle, half = -origin / direction, 1 / direction.abs()
    return (middle - half).amax(0), (middle + half).amin(0)


def _ray_ball(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same for the unit ball; by the distance of the line, as b^2 - ac cancels for small, far solids."""
    square = _dot(direction, direction)
    middle = -_dot(origin, direction) / square
    excess = (1 - sum((a + middle * b) * (a + middle * b) for a, b in zip(origin, direction, strict=True))) / square
    half = excess.abs().sqrt().copysign(excess)
    return middle - half, middle + half


def _ray_rod(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (enter, leave), (low, high) = _ray_ball(origin[:2], direction[:2]), _ray_box(origin[2:], direction[2:])
    return torch.maximum(enter, low), torch.minimum(leave, high)


def _hits(scene: SimpleNamespace, origin: torch.Tensor, ray: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each solid's row and the distance to it along rays from (3, batch, 1), inf for a miss."""
    for row in (scene.table[2, :, :, 0] > -100).any(1).nonzero()[:, 0].tolist():  # slots that some scene fills
        solid = scene.table[:, row]  # (20, batch, 1)
        local = (_turn(vector, *solid[6:8]) / solid[3:6] for vector in (origin - solid[:3], ray))
        enter, leave = (_ray_box, _ray_ball, _ray_rod)[SHAPES[row]](*local)
        yield row, torch.where((enter > 0) & (enter <= leave), enter, math.inf)


def _trace(scene: SimpleNamespace, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rays (3, batch, pixels) of unit depth, their planar depth and the row of the surface that they meet."""
    v, u = np.mgrid[0.5 - height / 2 : height / 2, 0.5 - width / 2 : width / 2].reshape(2, -1)
    v, u = (torch.tensor(x, dtype=torch.float32, device=scene.eye.device) / (scene.focal * width) for x in (v, u))
    ray = scene.right * u + scene.down * v + scene.forward + 1e-12  # no exact zero: 0 / 0 would be NaN
    depth, surface = torch.full_like(ray[0], math.inf), torch.zeros_like(ray[0], dtype=torch.long)
    for row, distance in _hits(scene, scene.eye, ray):
        surface, depth = torch.where(distance < depth, row, surface), torch.minimum(distance, depth)
    return ray, depth, surface


def _texture(kind: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Return the mix of a surface's two colors, in [0, 1]; `point` (3, ...) counts periods in the solid's frame."""
    grid = (torch.stack([point, 3 * point]) * 0.1 - 1).movedim(1, -1)[None]  # two octaves of value noise
    fine = torch.nn.functional.grid_sample(_NOISE.to(grid), grid, padding_mode="reflection", align_corners=True)[0, 0]
    noise = 0.65 * fine[0] + 0.35 * fine[1]
    cell, across = point.floor(), point[0] + point[2]
    checker, stripes = (parity - 2 * (parity / 2).floor() for parity in (cell.sum(0), across.floor()))
    tiles = torch.where(((point - cell - 0.5).abs() > 0.45).any(0), 1, 0.35 * noise)
    wave = across + 1.5 * noise
    plain = (0.4 * noise, 0.85 * checker + 0.15 * noise, 0.85 * stripes + 0.15 * noise, (2 * noise - 0.5).clamp(0, 1))
    patterns = (*plain, tiles, (12 * noise - 6).clamp(0, 1), 2 * (wave - wave.round()).abs())
    return torch.stack(patterns).gather(0, kind.long()[None])[0]


def _shade(scene: SimpleNamespace, width: int, ray, depth, surface) -> torch.Tensor:
    """Return linear colors (3, batch, pixels)."""
    sky, depth, stretch = depth > FAR, depth.clamp(max=FAR), _dot(ray, ray).sqrt()
    scenes = torch.arange(len(surface), device=surface.device)[:, None]
    columns = scene.table[..., 0][:, surface, scenes].split((3, 3, 5, 3, 3, 3))  # (20, batch, pixels)
    center, half, (cosine, sine, shape, texture, period), phase, first, second = columns
    point = scene.eye + ray * depth
    local = _turn(point - center, cosine, sine)
    unit = local / half
    cap = unit[2] * unit[2] >= _dot(unit[:2], unit[:2])
    curved = torch.stack([~cap, ~cap, cap]) | (shape == BALL)
    normal = torch.where(torch.where(shape == BOX, unit.abs() >= unit.abs().amax(0), curved), unit, 0) / half
    normal = _turn(normal / _dot(normal, normal).sqrt(), cosine, -sine)
    # A texture finer than the pixel's footprint on the slanted surface would alias: it fades to its mean.
    sharp = (1.5 + 2.5 * depth * stretch / (scene.focal * width * period * _dot(normal, ray))).clamp(0, 1)
    albedo = first + (second - first) * (0.4 + (_texture(texture, local / period + phase) - 0.4) * sharp)
    beam, lit = point - scene.lamp, ~sky
    for row, distance in _hits(scene, scene.lamp, beam):  # a solid is convex: it never shadows its own lit side
        lit &= (distance > 0.9999) | (surface == row)
    square, haze = _dot(beam, beam), 1 / (1 + scene.fog * depth)
    lambert = lit * (-_dot(normal, beam) / square.sqrt()).clamp(min=0) * 2 / (1 + square / scene.reach**2)
    color = albedo * (scene.ambient * (0.8 + 0.15 * normal[2] + 0.1 * normal[0]) + scene.light * lambert)
    heaven = scene.horizon + (scene.zenith - scene.horizon) * (ray[2] / stretch).clamp(min=0).sqrt()
    return torch.where(sky, heaven, scene.horizon + (color - scene.horizon) * haze) * scene.gain


def _develop(linear: torch.Tensor, scene: SimpleNamespace, seeds: Sequence[int], vignetting: float) -> torch.Tensor:
    """Convert linear colors (3, batch, ...) to the image of the scene's sensor: uint8 (batch, 3, height, width)."""
    v, u = (torch.arange(1 - size, size, 2, device=linear.device) / size for size in linear.shape[2:])
    linear = linear * (1 - vignetting / 2 * (u * u + (v * v)[:, None]))
    for _ in range(2):  # along the width, then, transposed, along the height
        wide = torch.nn.functional.pad(linear, (1, 1, 0, 0), mode="replicate")
        linear = (linear + scene.blur[..., None] * (wide[..., 2:] + wide[..., :-2] - 2 * linear)).transpose(2, 3)
    drawn = [np.random.default_rng([seed, 2]).standard_normal((3, *linear.shape[2:]), np.float32) for seed in seeds]
    grain = torch.from_numpy(np.stack(drawn, 1)).to(linear.device)
    linear = linear + scene.noise[..., None] * (linear.clamp(min=0) + 0.01).sqrt() * grain
    return (linear.clamp(0, 1).sqrt() * 255).round().to(torch.uint8).transpose(0, 1)


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return seeds as a list of integers, or raise a `ValueError` where there is none or a negative one."""
    seeds = [int(seed) for seed in seeds]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds is {seeds}, but must hold at least one integer, each >= 0; pass e.g. range(8).")
    return seeds


def render_scenes(
    seeds: Sequence[int], height: int, width: int, domain: Domain = LABELED_DOMAIN, supersample: int = 1, device="cpu"
) -> SceneBatch:
    """Render one scene per seed, with its exact depth, sky and classes.

    Args:
        seeds: Integers >= 0; a seed fixes its scene's bytes in any batch, and its geometry in every domain of equal `outdoors`.
        height, width: Size of the images in pixels, >= 1.
        domain, device: Look of the images, and where to trace.
        supersample: Rays per pixel along each side, >= 1; labels stay those of the pixel's center.

    Returns: The batch; `SceneBatch` states shapes and units.
    Raises: ValueError if `seeds` is empty or holds a negative one, or a size is not a positive integer.

    Example:
        >>> render_scenes([3, 4], height=24, width=32).images.shape
        torch.Size([2, 3, 24, 32])
    """
    seeds = check_seeds(seeds)
    for name, side in (("height", height), ("width", width), ("supersample", supersample)):
        if side < 1 or side != int(side):
            raise ValueError(f"{name} is {side!r}, but must be an integer >= 1; pass e.g. height=96, width=128.")
    if (cut := len(seeds) // 2) > 2:  # the buffers of a few scenes stay in a core's cache
        parts = [render_scenes(x, height, width, domain, supersample, device) for x in (seeds[:cut], seeds[cut:])]
        return SceneBatch(*(torch.cat(pair) for pair in zip(*(vars(part).values() for part in parts), strict=True)))
    arrays = [_tabulate(seed, draw_scene(seed, domain.outdoors), domain) for seed in seeds]
    stacked = {name: np.stack([array[name] for array in arrays], -1)[..., None] for name in arrays[0]}
    scene = SimpleNamespace(**{k: torch.tensor(v, dtype=torch.float32, device=device) for k, v in stacked.items()})
    size, fine = (height, width), (height * supersample, width * supersample)
    labels = _trace(scene, *size)
    colors = _shade(scene, fine[1], *(labels if supersample == 1 else _trace(scene, *fine))).unflatten(-1, fine)
    colors = sum(colors[..., i::supersample, j::supersample] for i, j in np.ndindex(supersample, supersample))
    depth, focal = labels[1].unflatten(-1, size), scene.focal * width  # (batch, height, width), (batch, 1)
    intrinsics = torch.cat([focal, focal, torch.full_like(focal, width / 2), torch.full_like(focal, height / 2)], 1)
    images = _develop(colors / supersample**2, scene, seeds, domain.vignetting)
    sky = depth > FAR
    classes = scene.classes[..., 0].T.gather(1, labels[2]).unflatten(-1, size)  # of the rows that the rays meet
    classes = torch.where(sky, CLASSES.index("sky"), classes).to(torch.uint8)
    return SceneBatch(images, torch.where(sky, 0, depth), sky, intrinsics, classes)


def iter_synthetic_records(
    count: int, height: int, width: int, seed: int = 0, domain: Domain = LABELED_DOMAIN, batch_size: int = 32
) -> Iterator[dict]:
    """Yield `count` labeled scenes as records of a Hugging Face dataset; scene i has seed `seed + i`.

    Args:
        count, seed, batch_size: Number of records, >= 0; seed of the first, >= 0; scenes rendered at a time, >= 1.
        height, width, domain: As in `render_scenes`.

    Returns: Dicts of `image` (PIL RGB), `depth`, `sky`, `classes` (as in `SceneBatch`), `intrinsics` (list) and
        `source` (str).
    Raises: ValueError if `count` is negative, `batch_size` is not positive, or `render_scenes` refuses the rest.

    Example:
        >>> next(iter_synthetic_records(1, height=24, width=32, seed=7))["source"]
        'synthetic:rendered:7'
    """
    if count < 0 or batch_size < 1:
        raise ValueError(f"count={count}, batch_size={batch_size}, but must be >= 0 and >= 1; raise them.")
    for start in range(seed, seed + count, batch_size):
        seeds = range(start, min(start + batch_size, seed + count))
        scenes = render_scenes(seeds, height, width, domain)
        for own, pixels, depth, sky, lens, classes in zip(seeds, *vars(scenes).values(), strict=True):
            item = {"image": Image.fromarray(pixels.permute(1, 2, 0).numpy()), "depth": depth.numpy()}
            item |= {"sky": sky.numpy(), "classes": classes.numpy(), "intrinsics": lens.tolist()}
            yield item | {"source": f"synthetic:{domain.name}:{own}"}
