"""Procedural scenes with exact planar depth and sky, rendered by analytic ray casting over batched tensors.

Pixels meet only elementwise, correctly rounded operations (+ - * / sqrt floor min max): vectorised `exp` or `sin`,
fused `lerp` and reordered sums would let the bytes of a scene depend on the batch that it was rendered in.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

FAR = 80.0  # metres; whatever lies beyond is sky
_CHUNK = 4  # scenes traced together: their buffers stay in a core's cache
_TEXTURES = ("flat", "checker", "stripes", "noise", "tiles", "blobs", "marble")
_BOX, _BALL, _ROD = range(3)
_SHAPES = np.repeat((_BOX, _BALL, _ROD), (11, 5, 5))  # slots for a scene's solids, after the six faces of its room
_NOISE = torch.from_numpy(np.random.default_rng(0).random((1, 1, 32, 32, 32), np.float32))

# Shape and typical half sizes in metres of what stands on a floor, a table and the ground.
_FURNITURE = (
    (0, 0.4, 0.4, 0.4),
    (0, 0.45, 0.3, 0.9),
    (1, 0.35, 0.35, 0.35),
    (2, 0.3, 0.3, 0.45),
    (2, 0.05, 0.05, 0.7),
)
_THINGS = ((0, 0.09, 0.09, 0.09), (0, 0.08, 0.05, 0.15), (1, 0.08, 0.08, 0.08), (2, 0.06, 0.06, 0.1))
_STREET = ((0, 0.9, 2.0, 0.5), (0, 0.5, 0.5, 0.5), (1, 0.9, 0.9, 0.7), (2, 0.25, 0.25, 0.75), (2, 0.12, 0.12, 1.5))
_HOUSES = ((0, 4.0, 5.0, 4.0), (0, 4.0, 4.0, 8.0))


@dataclass(frozen=True)
class Domain:
    """Describe how the images of a domain look; the geometry of a seed is the same in every domain."""

    name: str
    textures: tuple[str, ...] = ("flat", "checker", "stripes", "noise")  # drawn from these of _TEXTURES
    palette: tuple = ((0.0, 1.0), (0.1, 0.75), (0.35, 0.95))  # ranges of hue (turns), saturation and value
    # Linear RGB of the lamp or sun, of the light in shadows, of the zenith, of the horizon and haze.
    lights: tuple = ((0.85, 0.83, 0.78), (0.3, 0.31, 0.34), (0.16, 0.34, 0.78), (0.62, 0.74, 0.88))
    elevation: tuple[float, float] = (30.0, 75.0)  # of the sun, degrees; indoors the lamp hangs the higher
    fog: tuple[float, float] = (0.0, 0.0)  # 1 hides half of the contrast at the scene's typical distance
    exposure: tuple[float, float] = (0.8, 1.1)  # gain of the linear image
    noise: float = 0.0  # standard deviation of the shot noise of a white pixel
    blur: float = 0.0  # weight of each neighbour in a three-tap blur, in [0, 1/3]
    vignetting: float = 0.0  # fraction of light lost in the corners, in [0, 1]


LABELED_DOMAIN = Domain("rendered")
_DUSK = ((1.15, 0.78, 0.45), (0.25, 0.22, 0.3), (0.26, 0.22, 0.4), (0.8, 0.52, 0.38))
_EARTH = ((-0.1, 0.25), (0.15, 0.6), (0.25, 0.9))
UNLABELED_DOMAIN = Domain(
    "hazy-dusk", ("tiles", "blobs", "marble"), _EARTH, _DUSK, (12, 40), (0.1, 0.5), (0.7, 1.2), 0.05, 0.2, 0.45
)


@dataclass(frozen=True)
class SceneBatch:
    """Hold rendered scenes and their exact labels."""

    images: torch.Tensor  # (batch, 3, height, width) uint8, gamma-encoded RGB
    depth: torch.Tensor  # (batch, height, width) float32, planar depth (z along the optical axis) in metres, 0 at sky
    sky: torch.Tensor  # (batch, height, width) bool, where the ray of a pixel's centre hits nothing nearer than FAR
    intrinsics: torch.Tensor  # (batch, 4) float32, fx, fy, cx, cy in pixels; the first pixel's centre is (0.5, 0.5)


def _scatter(rng, scene: SimpleNamespace, kinds, count: int, reach, low, high, base: float = 0.0) -> None:
    """Stand up to `count` piles of solids in the view, within low..high, apart from one another and the eye."""
    taken = [(*scene.eye[:2], reach[0] / 2)]
    for _ in range(4 * count):
        shape, *half = kinds[rng.integers(len(kinds))]
        half, yaw, bottom = half * rng.uniform(0.7, 1.4, 3), rng.uniform(0, math.pi), base
        radius = math.hypot(*half[:2])
        distance = radius + reach[0] * (reach[1] / reach[0]) ** rng.random()  # log-uniform: near ones are not rare
        bearing = scene.heading + scene.fov * rng.uniform(-0.5, 0.5)
        x, y = scene.eye[0] + distance * math.sin(bearing), scene.eye[1] + distance * math.cos(bearing)
        inside = low[0] + radius < x < high[0] - radius and low[1] + radius < y < high[1] - radius
        if not inside or len(taken) > count or any(math.hypot(x - u, y - v) < radius + r for u, v, r in taken):
            continue
        taken.append((x, y, radius))
        while sum(solid[0] == shape for solid in scene.solids) < (_SHAPES == shape).sum():
            scene.solids.append((shape, x, y, bottom + half[2], *half, yaw))
            if shape == _BALL or rng.random() < 0.4:
                break
            # Something on top: a ball on a thin rod is a lamp or a tree, a slab a table, a box on a box a car.
            shape, bottom, wide = rng.integers(3), bottom + 2 * half[2], max(0.8 * half[:2].min(), 0.4 * half[2])
            half = wide * rng.uniform((0.6, 0.6, 0.1), 1.1)


def _draw_scene(seed: int) -> SimpleNamespace:
    """Draw a geometry, in metres and radians: x right, y forward, z up, floor at z = 0, heading clockwise from y."""
    rng = np.random.default_rng([seed, 0])
    scene = SimpleNamespace(fov=math.radians(rng.uniform(45, 90)), roll=rng.normal(0, 0.035), solids=[])
    (_draw_indoors if rng.random() < 0.6 else _draw_outdoors)(rng, scene, rng.random() < 0.4)
    return scene


def _draw_indoors(rng, scene: SimpleNamespace, tabletop: bool) -> None:
    a, b, height = rng.uniform((1.8, 2.2, 2.3), (4.5, 6.0, 3.4))
    scene.low, scene.high, scene.extent = (-a, -b, 0.0), (a, b, height), b + 1  # corners; scale of haze and textures
    scene.eye = rng.uniform((-0.7 * a, 0.15 - b, 0.9), (0.7 * a, 0.8 - b, 1.9))
    scene.heading, scene.pitch = (
        math.atan2(rng.uniform(-0.6, 0.6) * a - scene.eye[0], 1.2 * b),
        rng.uniform(-0.4, 0.07),
    )
    if tabletop:
        x, a, b, top = rng.uniform((-0.4, 0.6, 0.5, 0.6), (0.4, 1.2, 1.0, 0.8))
        scene.solids, scene.extent = [(_BOX, 0.0, 0.0, top / 2, a, b, top / 2, 0.0)], 1.5
        scene.eye = (x, -b - rng.uniform(-0.1, 0.3), top + rng.uniform(0.25, 0.7))
        scene.heading, scene.pitch = rng.uniform(-0.2, 0.2) - x / b, rng.uniform(-0.73, -0.28)
        _scatter(rng, scene, _THINGS, rng.integers(4, 10), (0.3, 2 * b), (-a, -b), (a, b), top)
    else:
        _scatter(rng, scene, _FURNITURE, rng.integers(4, 9), (0.7, 2 * b), scene.low, scene.high)


def _draw_outdoors(rng, scene: SimpleNamespace, street: bool) -> None:
    road, edge, x, z = rng.uniform((3, 5, -2, 1.1), (5, 8, 2, 3.5))
    scene.low, scene.high, scene.extent = (-math.inf, -math.inf, 0.0), (math.inf,) * 3, 20.0
    scene.eye, scene.heading, scene.pitch = (x, 0.0, z), rng.uniform(-0.35, 0.35), rng.uniform(-0.25, 0.12)
    for side in (-1, 1) if street else ():
        y = rng.uniform(-6, 8)
        scene.solids.append((_BOX, side * (road + 50), 40.0, 0.07, 50.0, 60.0, 0.07, 0.0))  # the pavement
        for depth, length, tall, gap in rng.uniform((4, 5, 2, 0), (8, 12, 8, 6), (3, 4)):
            scene.solids.append((_BOX, side * (edge + gap / 2 + depth), y + length, tall, depth, length, tall, 0.0))
            y += 2 * length + gap
    low, high = ((-edge, 0), (edge, 75)) if street else ((-99, -99), (99, 99))
    if not street:
        _scatter(rng, scene, _HOUSES, rng.integers(1, 5), (12, 60), low, high)
    _scatter(rng, scene, _STREET, rng.integers(4, 9), (2, 35), low, high)


def _surfaces(scene: SimpleNamespace, domain: Domain, look: np.ndarray) -> np.ndarray:
    """Return (27, 20): centre, half sizes, cos and sin of yaw, shape, texture, period, phase, two colours."""
    rows = np.tile((_BOX, 0, 0, -1e4, 1e-3, 1e-3, 1e-3, 0), (6 + len(_SHAPES), 1))  # under the floor: never met
    for row, (axis, side) in enumerate(np.ndindex(3, 2)):  # a face is a box too wide and thick to show another face
        rows[row, 1:7] = [0, 0, 0, 1e6, 1e6, 1e6]
        rows[row, [1 + axis, 4 + axis]] = (scene.low, scene.high)[side][axis] + 200 * side - 100, 100
    for shape in range(3):
        own, start = [solid for solid in scene.solids if solid[0] == shape], 6 + np.searchsorted(_SHAPES, shape)
        rows[start : start + len(own)] = np.reshape(own, (-1, 8))
    families = np.array([_TEXTURES.index(name) for name in domain.textures])
    texture = families[(look[:, 0] * len(families)).astype(int)]
    period = (0.4 + 0.8 * look[:, 1]) * np.r_[np.full(6, 0.15 * scene.extent), rows[6:, 4:7].max(1).clip(max=2.5)]
    low, high = np.transpose(domain.palette)
    hue, saturation, value = np.moveaxis(low + (high - low) * look[:, 5:].reshape(-1, 2, 3), 2, 0)[..., None]
    colors = value * (1 - saturation + saturation * (np.abs((6 * hue + (0, 4, 2)) % 6 - 3) - 1).clip(0, 1))
    yaw = (np.cos(rows[:, 7]), np.sin(rows[:, 7]))
    return np.column_stack(
        (rows[:, 1:7], *yaw, np.r_[[0] * 6, _SHAPES], texture, period, look[:, 2:5], colors.reshape(-1, 6))
    )


def _frame(scene: SimpleNamespace, domain: Domain, look: np.ndarray) -> tuple:
    """Return the camera and the light of a scene, in the order of `_stack`."""
    angles = (scene.heading, scene.pitch, scene.roll)
    (sh, sp, sr), (ch, cp, cr) = np.sin(angles), np.cos(angles)
    forward, level = np.array([sh * cp, ch * cp, sp]), np.array([ch, -sh, 0])
    below = np.cross(forward, level)
    rise, fog, gain = (
        a + (b - a) * u for (a, b), u in zip((domain.elevation, domain.fog, domain.exposure), look, strict=False)
    )
    flat, rise, turn = math.cos(math.radians(rise)), math.sin(math.radians(rise)), math.tau * look[3]
    lamp, reach = 200 * np.array([flat * math.cos(turn), flat * math.sin(turn), rise]), 1e6
    if scene.high[2] < math.inf:
        lamp, reach = scene.high * np.array([*(look[4:6] - 0.5), 0.6 + 0.38 * rise]), 0.8 * max(scene.high)
    vectors = (cr * level + sr * below, cr * below - sr * level, forward, scene.eye, scene.low, scene.high, lamp)
    scalars = (0.5 / math.tan(scene.fov / 2), reach, fog / scene.extent, gain)
    return (*vectors, *(np.array(domain.lights) * (0.9 + 0.2 * look[6:10, None])), *np.tile(scalars, (3, 1)).T)


def _stack(seeds: Sequence[int], scenes: Sequence, domain: Domain, device) -> SimpleNamespace:
    """Return vectors (3, batch, 1) and the table of the surfaces (20, 27, batch)."""
    looks = [np.random.default_rng([seed, 1]).random((7 + len(_SHAPES), 11)) for seed in seeds]
    for look in looks:
        look[1:4] = look[0]  # the four walls share one material
    frames = [_frame(scene, domain, look[-1]) for scene, look in zip(scenes, looks, strict=True)]
    table = [_surfaces(scene, domain, look[:-1]) for scene, look in zip(scenes, looks, strict=True)]
    arrays = (np.stack(frames, -1)[..., None], np.stack(table).T)
    frames, table = (torch.tensor(array, dtype=torch.float32, device=device) for array in arrays)
    names = ("right", "down", "forward", "eye", "low", "high", "lamp", "light", "ambient", "zenith", "horizon")
    names += ("focal", "reach", "fog", "exposure")
    return SimpleNamespace(**dict(zip(names, frames, strict=True)), table=table)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True))  # a sum in a fixed order


def _turn(vector: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    return torch.stack([cosine * vector[0] + sine * vector[1], cosine * vector[1] - sine * vector[0], vector[2]])


def _ray_box(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where rays enter and leave the cube [-1, 1]^3, in units of `direction`; enter > leave is a miss."""
    inverse = 1 / direction
    middle, half = -origin * inverse, inverse.abs()
    return (middle - half).amax(0), (middle + half).amin(0)


def _ray_ball(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same for the unit ball; by the distance of the line, as b^2 - ac cancels for small, far solids."""
    square = _dot(direction, direction)
    middle = -_dot(origin, direction) / square
    closest = origin + middle * direction
    excess = (1 - _dot(closest, closest)) / square
    half = excess.abs().sqrt().copysign(excess)
    return middle - half, middle + half


def _ray_rod(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (enter, leave), (low, high) = _ray_ball(origin[:2], direction[:2]), _ray_box(origin[2:], direction[2:])
    return torch.maximum(enter, low), torch.minimum(leave, high)


def _hits(scene: SimpleNamespace, origin: torch.Tensor, ray: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each solid's row and the distance to it along rays from (3, batch, 1), inf for a miss."""
    for row, shape in enumerate(_SHAPES, start=6):
        solid = scene.table[:, row, :, None]  # (20, batch, 1)
        if not (solid[2] > -100).any():
            continue
        local = (_turn(vector, *solid[6:8]) / solid[3:6] for vector in (origin - solid[:3], ray))
        enter, leave = (_ray_box, _ray_ball, _ray_rod)[shape](*local)
        yield row, torch.where((enter > 0) & (enter <= leave), enter, math.inf)


def _trace(scene: SimpleNamespace, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rays (3, batch, pixels) of unit depth, their planar depth and the row of the surface that they meet."""
    v, u = np.mgrid[0.5 - height / 2 : height / 2, 0.5 - width / 2 : width / 2].reshape(2, -1)
    v, u = (torch.tensor(x, dtype=torch.float32, device=scene.eye.device) / (scene.focal * width) for x in (v, u))
    ray = scene.right * u + scene.down * v + scene.forward + 1e-12  # no exact zero: 0 / 0 would be NaN
    depth, axis = ((torch.where(ray > 0, scene.high, scene.low) - scene.eye) / ray).min(0)
    surface = 2 * axis + (ray > 0).gather(0, axis[None])[0]
    for row, distance in _hits(scene, scene.eye, ray):
        surface, depth = torch.where(distance < depth, row, surface), torch.minimum(distance, depth)
    return ray, depth, surface


def _noise(point: torch.Tensor) -> torch.Tensor:
    """Return value noise (batch, pixels) in [0, 1] at points (3, batch, pixels) in units of its lattice."""
    grid = (point * (2 / 31) - 1).movedim(0, -1)[None, None]
    return F.grid_sample(_NOISE.to(point.device), grid, padding_mode="reflection", align_corners=True)[0, 0, 0]


def _texture(kind: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Return the mix of a surface's two colours, in [0, 1]; `point` (3, ...) counts periods in the solid's frame."""
    noise = 0.65 * _noise(1.5 * point) + 0.35 * _noise(4.1 * point)
    cell, across = point.floor(), point[0] + point[2]
    checker, stripes = (parity - 2 * (parity / 2).floor() for parity in (cell.sum(0), across.floor()))
    tiles = torch.where(((point - cell - 0.5).abs() > 0.45).any(0), 1, 0.35 * noise)
    wave = across + 1.5 * noise
    marble = (wave - wave.floor() - 0.5).abs() * 2
    plain = (0.4 * noise, 0.85 * checker + 0.15 * noise, 0.85 * stripes + 0.15 * noise, (2 * noise - 0.5).clamp(0, 1))
    return torch.stack([*plain, tiles, (12 * noise - 6).clamp(0, 1), marble]).gather(0, kind.long()[None])[0]


def _shade(scene: SimpleNamespace, width: int, ray, depth, surface) -> torch.Tensor:
    """Return linear colours (3, batch, pixels)."""
    sky, depth, stretch = depth > FAR, depth.clamp(max=FAR), _dot(ray, ray).sqrt()
    index = surface * len(depth) + torch.arange(len(depth), device=depth.device)[:, None]
    center, half, (cosine, sine, shape, texture, period), phase, first, second = scene.table.flatten(1)[
        :, index
    ].split((3, 3, 5, 3, 3, 3))
    local = _turn(scene.eye + ray * depth - center, cosine, sine)
    unit = local / half
    face, size = unit, unit.abs()
    cap = size[2] * size[2] >= _dot(unit[:2], unit[:2])
    box, rod = size >= size.amax(0), torch.stack([~cap, ~cap, cap])
    normal = torch.where(torch.where(shape == _BOX, box, rod | (shape == _BALL)), face, 0) / half
    normal = _turn(normal / _dot(normal, normal).sqrt(), cosine, -sine)
    # A texture finer than the pixel's footprint on the slanted surface would alias: it fades to its mean.
    slant = (-_dot(normal, ray) / stretch).clamp(min=0.05)
    sharp = (1.5 - 2.5 * depth / (scene.focal[0] * width * slant * period)).clamp(0, 1)
    albedo = first + (second - first) * (0.4 + (_texture(texture, local / period + phase) - 0.4) * sharp)
    beam = scene.eye + ray * depth - scene.lamp
    length = _dot(beam, beam).sqrt()
    lit = torch.ones_like(sky)
    for row, distance in _hits(scene, scene.lamp, beam):  # a solid is convex: it never shadows its lit side
        lit &= (distance > 0.9999) | (surface == row)
    lambert = lit * (-_dot(normal, beam) / length).clamp(min=0) * 1.7 / (1 + (length / scene.reach[0]) ** 2)
    color = albedo * (scene.ambient * (0.8 + 0.15 * normal[2] + 0.1 * normal[0]) + scene.light * lambert)
    veil = scene.fog * depth
    color = color + (scene.horizon - color) * (veil / (1 + veil))
    heaven = scene.horizon + (scene.zenith - scene.horizon) * (ray[2] / stretch).clamp(min=0).sqrt()
    return torch.where(sky, heaven, color) * scene.exposure


def _develop(linear: torch.Tensor, seeds: Sequence[int], domain: Domain) -> torch.Tensor:
    """Return what the domain's sensor makes of linear colours (3, batch, ...): uint8 (batch, 3, height, width)."""
    height, width = linear.shape[2:]
    v, u = (torch.arange(1 - size, size, 2, device=linear.device) / size for size in (height, width))
    linear = linear * (1 - domain.vignetting / 2 * (u * u + (v * v)[:, None]))
    for pad, axis in (((1, 1, 0, 0), 3), ((0, 0, 1, 1), 2)):
        wide, size = F.pad(linear, pad, mode="replicate"), linear.shape[axis]
        linear = linear + domain.blur * (wide.narrow(axis, 0, size) + wide.narrow(axis, 2, size) - 2 * linear)
    if domain.noise:
        draws = (np.random.default_rng([seed, 2]).standard_normal((3, height, width), np.float32) for seed in seeds)
        grain = torch.from_numpy(np.stack(list(draws), 1)).to(linear.device)
        linear = linear + domain.noise * (linear.clamp(min=0) + 0.01).sqrt() * grain
    return (linear.clamp(0, 1).sqrt() * 255).round().to(torch.uint8).transpose(0, 1)


def _render(seeds, scenes, height: int, width: int, domain: Domain, supersample: int, device) -> SceneBatch:
    scene, fine = _stack(seeds, scenes, domain, device), (height * supersample, width * supersample)
    labels = _trace(scene, height, width)
    colors = _shade(scene, fine[1], *(labels if supersample == 1 else _trace(scene, *fine))).unflatten(-1, fine)
    subpixels = (colors[..., i::supersample, j::supersample] for i, j in np.ndindex(supersample, supersample))
    images = _develop(sum(subpixels) / supersample**2, seeds, domain)
    depth = labels[1].unflatten(-1, (height, width))
    focal = scene.focal[0, :, 0] * width
    intrinsics = torch.stack([focal, focal, torch.full_like(focal, width / 2), torch.full_like(focal, height / 2)], 1)
    return SceneBatch(images, torch.where(depth > FAR, 0, depth), depth > FAR, intrinsics)


@torch.no_grad()
def render_scenes(
    seeds: Sequence[int], height: int, width: int, domain: Domain = LABELED_DOMAIN, supersample: int = 1, device="cpu"
) -> SceneBatch:
    """Render one scene per seed, with its exact depth and sky.

    Args:
        seeds: Integers >= 0; a seed fixes its scene's bytes in any batch, and its geometry in every domain.
        height, width: Size of the images in pixels, >= 1.
        domain: Look of the images.
        supersample: Rays per pixel along each side, >= 1; labels stay those of the pixel's centre.
        device: Where to trace.

    Returns:
        Images (batch, 3, height, width), depth and sky (batch, height, width), intrinsics (batch, 4).

    Raises:
        ValueError: `seeds` is empty or holds a negative one, or a size is not a positive integer.

    Example:
        >>> scenes = render_scenes([3, 4], height=24, width=32)
        >>> scenes.images.shape, scenes.depth[scenes.sky].sum().item()
        (torch.Size([2, 3, 24, 32]), 0.0)
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds is {seeds}, but must hold at least one integer, each >= 0; pass e.g. range(8).")
    for name, size in (("height", height), ("width", width), ("supersample", supersample)):
        if size < 1 or size != int(size):
            raise ValueError(f"{name} is {size!r}, but must be an integer >= 1; pass e.g. height=96, width=128.")
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    look = (height, width, domain, supersample, device)
    parts = [vars(_render(chunk, [_draw_scene(seed) for seed in chunk], *look)) for chunk in chunks]
    return SceneBatch(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def iter_synthetic_records(
    count: int, height: int, width: int, seed: int = 0, domain: Domain = LABELED_DOMAIN, batch_size: int = 32
) -> Iterator[dict]:
    """Yield `count` labelled scenes as records of a Hugging Face dataset; scene i has seed `seed + i`.

    Args:
        count: Number of records, >= 0.
        height, width: Size of the images in pixels, >= 1.
        seed: Seed of the first scene, >= 0.
        domain: Look of the images.
        batch_size: Scenes rendered at a time, >= 1.

    Returns:
        Dicts: `image` (PIL RGB), `depth` (height, width) float32 metres with 0 at sky, `sky` (height, width) bool,
        `intrinsics` [fx, fy, cx, cy] in pixels and `source`.

    Raises:
        ValueError: `count` is negative, `batch_size` is not positive, or `render_scenes` refuses the rest.

    Example:
        >>> record = next(iter_synthetic_records(1, height=24, width=32, seed=7))
        >>> record["image"].size, record["depth"].shape, record["source"]
        ((32, 24), (24, 32), 'synthetic:rendered:7')
    """
    if count < 0 or batch_size < 1:
        raise ValueError(f"count={count}, batch_size={batch_size}, but must be >= 0 and >= 1; raise them.")
    for start in range(seed, seed + count, batch_size):
        seeds = range(start, min(start + batch_size, seed + count))
        scenes = render_scenes(seeds, height, width, domain)
        for own, pixels, depth, sky, camera in zip(seeds, *vars(scenes).values(), strict=True):
            record = {"image": Image.fromarray(pixels.permute(1, 2, 0).numpy()), "depth": depth.numpy()}
            source = f"synthetic:{domain.name}:{own}"
            yield record | {"sky": sky.numpy(), "intrinsics": camera.tolist(), "source": source}
