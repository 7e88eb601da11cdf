"""Render worlds: images as a camera would take them, with exact depth and sky."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.scenes.simple import SceneBatch, check_seeds
from depth_anything_hf.scenes.simple_layout import camera_axes
from depth_anything_hf.scenes.worlds.closeups import backdrop, clutter, tabletop
from depth_anything_hf.scenes.worlds.landscapes import country, street
from depth_anything_hf.scenes.worlds.rooms import room
from depth_anything_hf.scenes.worlds.shading import Light, shade
from depth_anything_hf.scenes.worlds.solids import BALL, BOX, COLUMNS, CONE, ROD, Shot, World
from depth_anything_hf.scenes.worlds.textures import FAMILIES
from depth_anything_hf.scenes.worlds.tracing import Camera, Solids, trace

NEAREST, FARTHEST = 0.05, 1000.0  # meters; what lies beyond is sky
LAYOUTS = {  # the kinds of worlds: each fills a `World` and returns its view and light
    "room": room, "tabletop": tabletop, "backdrop": backdrop, "street": street, "country": country, "clutter": clutter,
}  # fmt: skip
_SHARES = dict(zip(LAYOUTS, (0.36, 0.18, 0.1, 0.2, 0.1, 0.06), strict=True))


@dataclass(frozen=True)
class WorldStyle:
    """Describe what is rendered; each switch turns a part of the realism off, to measure its effect.

    Raises:
        ValueError: A kind is unknown, the shares are no shares, or `squeeze` is out of range.
    """

    kinds: dict[str, float] = field(default_factory=_SHARES.copy)  # share of each of `LAYOUTS`
    textures: bool = True  # off, every surface is plain
    shadows: bool = True  # off, lamps shine through things
    sensor: bool = True  # off, an ideal camera: no exposure error, color cast, noise, blur, vignetting or JPEG
    # Largest ratio of width to height of a view, which is squeezed into the image, at least 1.6; 0 = the image's own.
    squeeze: float = 3.3

    def __post_init__(self):
        if unknown := sorted(set(self.kinds) - set(LAYOUTS)):
            raise ValueError(f"kinds names {unknown}; there are {', '.join(LAYOUTS)}.")
        shares = list(self.kinds.values())
        if not all(0 <= share < math.inf for share in shares) or not sum(shares) > 0:
            raise ValueError(f"kinds is {self.kinds}; shares must be at least 0, and one of them more.")
        if self.squeeze and not 1.6 <= self.squeeze < math.inf:
            raise ValueError(f"squeeze is {self.squeeze}; it must be 0 or at least 1.6.")


def _aspect(rng: np.random.Generator, style: WorldStyle, own: float) -> float:
    """Draw the shape of a view: most are 4:3 or 3:2, some wide, some upright."""
    if not style.squeeze:
        return own
    kind = rng.random()
    if kind < 0.6:
        return rng.uniform(1.2, 1.6)
    return math.exp(rng.uniform(math.log(0.65), math.log(1.2))) if kind < 0.75 else rng.uniform(1.6, style.squeeze)


def _build(seed: int, style: WorldStyle, own_aspect: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw a kind, and a world of it until its camera stands in nothing; return its table, camera and light."""
    share = np.array(list(style.kinds.values()))
    kind = list(style.kinds)[np.random.default_rng(seed).choice(len(share), p=share / share.sum())]
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        world = World(rng)
        shot = LAYOUTS[kind](world)
        table = world.table()
        if not style.textures:
            table[:, COLUMNS["texture"]], table[:, COLUMNS["contrast"]] = FAMILIES["plain"][0], 0
        if not _stands_in(table, shot.eye):
            break
    aspect = _aspect(rng, style, own_aspect)
    return table, _camera(shot, aspect) | _light(rng, shot)


def _stands_in(table: np.ndarray, eye: np.ndarray) -> bool:
    """Return whether a point lies within a solid, or nearer to one than `NEAREST`."""
    axes = table[:, COLUMNS["axes"]].reshape(-1, 3, 3)
    own = np.einsum("nij,nj->in", axes, eye - table[:, COLUMNS["center"]]) / (table[:, COLUMNS["half"]].T + NEAREST)
    aside, level = own[0] ** 2 + own[1] ** 2, np.abs(own[2]) <= 1
    within = {
        BOX: (np.abs(own) <= 1).all(0),
        BALL: aside + own[2] ** 2 <= 1,
        ROD: level & (aside <= 1),
        CONE: level & (aside <= ((1 - own[2]) / 2) ** 2),
    }
    return any((within[shape] & (table[:, COLUMNS["shape"]] == shape)).any() for shape in within)


def _camera(shot: Shot, aspect: float) -> dict[str, np.ndarray]:
    # A wide view is wide in angle only in part: a panorama is a crop of the same lens.
    longer = 0.5 / math.tan(shot.fov / 2)
    focal = (longer, longer * aspect) if aspect >= 1 else (longer / aspect, longer)
    return {"eye": shot.eye, "axes": camera_axes(shot.heading, shot.pitch, shot.roll), "focal": np.array(focal)}


def _light(rng: np.random.Generator, shot: Shot) -> dict[str, np.ndarray]:
    """Draw colors and strengths of the light, and two more faint lamps, whose shadows replace the shadows of the sky."""
    warm = np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.5, 1.05)])
    lamps, reach = list(shot.lamps[:2]), [1e9 if shot.sun else rng.uniform(1, 5)] * len(shot.lamps[:2])
    overcast = shot.sun and rng.random() < 0.35
    bright = (1.0, 3.0) if shot.sun else (0.5, 2.0)  # a sun's shadows are dark
    colors = [warm * rng.uniform(*bright) * (0.1 if overcast else 1.0) for _ in lamps]
    span = 300.0 if shot.sun else 2.0
    while len(lamps) < 3:
        direction = rng.normal(0, 1, 3) * (1, 1, 0.5) + (0, 0, 0.8)
        lamps.append(shot.eye + span * direction * (1, 1, math.copysign(1, direction[2])))
        colors.append(np.array([0.9, 1.0, 1.1]) * rng.uniform(0.05, 0.3))
        reach.append(1e9)
    if not shot.sun:
        for lamp in lamps[2:]:
            lamp[2] = max(lamp[2], shot.eye[2] + 0.3)
    blue = np.array([rng.uniform(0.15, 0.6), rng.uniform(0.35, 0.7), rng.uniform(0.6, 1.0)])
    gray = np.ones(3) * rng.uniform(0.5, 1.0)
    zenith, horizon = (gray, gray * rng.uniform(0.9, 1.2)) if overcast else (blue, 0.4 * blue + 0.6 * gray)
    glare = math.exp(rng.uniform(0, 1.4)) if shot.sun else 1.0  # exposed for the ground, a sky is often white
    return {
        "lamps": np.array(lamps[:3]),
        "colors": np.array(colors[:3]),
        "reach": np.array(reach[:3]),
        "ambient": rng.uniform(0.1, 0.5) * (0.6 * np.ones(3) + 0.4 * zenith / zenith.mean()),
        "flash": np.array(rng.uniform(0, 0.3) if rng.random() < 0.6 else rng.uniform(0.3, 1.2)),
        "zenith": glare * zenith,
        "horizon": glare * horizon,
        "fog": np.array(shot.fog),
        "clouds": np.array([rng.uniform(0.2, 0.9) if shot.sun else 0.0, rng.integers(*FAMILIES["noise"])]),
    }


def _blur(image: torch.Tensor, sigma_x: float, sigma_y: float) -> torch.Tensor:
    """Blur `(3, height, width)` along both axes."""
    for axis, sigma in ((2, sigma_x), (1, sigma_y)):
        if sigma > 0.05:
            reach = math.ceil(2.5 * sigma)
            steps = torch.arange(-reach, reach + 1, device=image.device)
            weights = torch.exp(-0.5 * (steps / sigma) ** 2)
            weights = (weights / weights.sum()).view(1, 1, -1)
            flat = image.movedim(axis, -1)
            padded = torch.nn.functional.pad(flat, (reach, reach), mode="replicate")
            blurred = torch.nn.functional.conv1d(padded.reshape(-1, 1, padded.shape[-1]), weights)
            image = blurred.view(flat.shape).movedim(-1, axis)
    return image


def _quantiles(values: torch.Tensor, *shares: float) -> torch.Tensor:
    """Return the nearest of the values to quantiles: `torch.quantile` refuses large pictures."""
    ordered = values.flatten().sort().values
    return ordered[[round(share * (len(ordered) - 1)) for share in shares]]


def _develop(linear: torch.Tensor, seed: int, sensor: bool) -> torch.Tensor:
    """Convert linear light `(3, height, width)` to the image of a camera: uint8, same shape, on the CPU."""
    rng = np.random.default_rng([seed, 99])
    mean = linear.mean(dtype=torch.float64).float()  # in float32 the last bit hangs on the number of threads
    level = _quantiles(linear.mean(0), 0.5) * 0.5 + mean * 0.5
    aim = (rng.uniform(0.1, 0.4) if rng.random() < 0.85 else rng.uniform(0.05, 0.8)) if sensor else 0.2
    linear = linear * (aim / level.clamp(min=1e-3))
    if not sensor:
        return (linear.clamp(0, 1) ** (1 / 2.2) * 255).round().to(torch.uint8).cpu()
    height, width = linear.shape[1:]
    if rng.random() < 0.5:
        v = torch.linspace(-1, 1, height, device=linear.device)[:, None]
        u = torch.linspace(-1, 1, width, device=linear.device)
        linear = linear * (1 - rng.uniform(0, 0.3) * (u * u + v * v))
    cast = np.exp(rng.normal(0, 0.07, 3))
    linear = linear * torch.tensor(cast, dtype=torch.float32, device=linear.device)[:, None, None]
    soft = rng.uniform(0.3, 0.5) if rng.random() < 0.8 else rng.uniform(0.5, 1.5)  # few stay soft when made so small
    linear = _blur(linear, soft * rng.uniform(0.9, 1.1), soft * rng.uniform(0.9, 1.1))
    noise = rng.uniform(0, 0.006) if rng.random() < 0.8 else rng.uniform(0, 0.05)
    grain = torch.from_numpy(rng.standard_normal(linear.shape, np.float32)).to(linear.device)
    if rng.random() < 0.5:
        grain = 1.6 * _blur(grain, 0.6, 0.6)
    linear = (linear + noise * (linear.clamp(min=0) + 0.02).sqrt() * grain).clamp(min=0)
    if rng.random() < 0.5:  # a shoulder, as cameras roll off highlights
        linear = linear * (1 + linear / 4) / (1 + 0.6 * linear)
    encoded = linear.clamp(0, 1) ** (1 / rng.uniform(1.8, 2.4))
    curve = rng.uniform(0, 0.9)  # contrast: from none to a full smooth step
    encoded = torch.lerp(encoded, encoded * encoded * (3 - 2 * encoded), curve)
    gray = encoded.mean(0, keepdim=True)
    encoded = (gray + rng.uniform(0.5, 1.5) * (encoded - gray)) if rng.random() < 0.97 else gray.expand(3, -1, -1)
    if rng.random() < 0.75:  # most pictures reach from black to white
        dark, light = _quantiles(gray.clamp(0, 1), 0.01, 0.99)
        low, high, span = rng.uniform(0, 0.12), rng.uniform(0.8, 1.1), (light - dark).clamp(min=0.4)
        dark = ((dark + light - span) / 2).clamp(min=0).minimum(1 - span)  # what has little contrast keeps its level
        encoded = low + (encoded - dark) * ((high - low) / span)
    image = (encoded.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    if rng.random() < 0.4:
        file = io.BytesIO()
        quality = int(rng.integers(50, 97))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return image


def render_worlds(
    seeds: Sequence[int], height: int, width: int, style: WorldStyle = WorldStyle(), device: str = "cpu"
) -> SceneBatch:
    """Render one world per seed, with its exact depth and sky.

    Args:
        seeds: Integers >= 0.
        height, width: Of the images, pixels, >= 8.
        style: What is rendered.
        device: Where to trace and shade; cameras' effects and JPEG are the CPU's.

    Returns:
        The batch, on the CPU, without classes; `intrinsics` describe how the view was squeezed.

    Raises:
        ValueError: `seeds` is empty or holds a negative one, or a side is too small.

    Example:
        >>> render_worlds([3, 4], height=24, width=32).images.shape
        torch.Size([2, 3, 24, 32])
    """
    seeds = check_seeds(seeds)
    if min(height, width) < 8:
        raise ValueError(f"height and width are {height} and {width}; both must be at least 8 pixels.")
    built = [_build(seed, style, width / height) for seed in seeds]

    def stack(name: str, axis: int = 0) -> torch.Tensor:
        values = np.stack([numbers[name] for _, numbers in built], axis)
        return torch.tensor(values, dtype=torch.float32, device=device)

    solids = Solids(
        torch.from_numpy(np.concatenate([table for table, _ in built])).to(device),
        torch.repeat_interleave(torch.arange(len(built)), torch.tensor([len(table) for table, _ in built])).to(device),
    )
    camera = Camera(stack("eye"), stack("axes"), stack("focal"))
    light = Light(
        *(stack(name, 1) for name in ("lamps", "colors", "reach")),
        *(stack(name) for name in ("ambient", "flash", "zenith", "horizon", "fog", "clouds")),
    )
    hits = trace(solids, camera, height, width)
    linear = shade(solids, camera, light, hits, height, width, style.shadows)
    linear = linear.view(len(seeds), height, width, 3).permute(0, 3, 1, 2)
    images = torch.stack([_develop(one, seed, style.sensor) for one, seed in zip(linear, seeds, strict=True)])
    depth = hits.depth.view(len(seeds), height, width).cpu()
    sky = ~(depth < FARTHEST)
    size = torch.tensor([width, height])
    intrinsics = torch.cat([camera.focal.cpu() * size, (size / 2).expand(len(seeds), 2)], 1)
    return SceneBatch(images, torch.where(sky, 0, depth), sky, intrinsics, None)
