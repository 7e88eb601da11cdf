"""First hits of all pixels' rays with all solids at once: pairs of a solid and a pixel inside its outline's box.

Every function works on several worlds together and on any device; a pixel's number is world * height * width + row *
width + column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from depth_anything_hf.scenes.worlds.solids import BALL, BOX, COLUMNS, CONE, ROD

NEAR = 0.02  # meters; nothing nearer to the camera is seen
_CORNERS = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float32)
_EDGES = torch.tensor([[a, b] for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]).T  # (2, 12)


@dataclass(frozen=True)
class Solids:
    """Store the solids of several worlds, and the world of each."""

    table: torch.Tensor  # (solids, columns of `solids.COLUMNS`), of each world ordered by shape
    world: torch.Tensor  # (solids,) int64

    def __getitem__(self, column: str) -> torch.Tensor:
        return self.table[:, COLUMNS[column]]


@dataclass(frozen=True)
class Camera:
    """Store a pinhole camera for each world; its axes are unit vectors."""

    eye: torch.Tensor  # (worlds, 3) meters
    axes: torch.Tensor  # (worlds, 3, 3): right, down, forward, one a row
    focal: torch.Tensor  # (worlds, 2) along x and y, in units of the image's width and height

    def rays(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the place of every pixel on the plane of unit depth, along x and y: `(worlds * height * width,)` each."""
        across = (torch.arange(width, device=self.eye.device) + 0.5) / width - 0.5
        along = (torch.arange(height, device=self.eye.device) + 0.5) / height - 0.5
        u = (across / self.focal[:, :1])[:, None].expand(-1, height, -1)
        v = (along / self.focal[:, 1:])[:, :, None].expand(-1, -1, width)
        return u.reshape(-1), v.reshape(-1)

    def pixel_size(self, height: int, width: int) -> torch.Tensor:
        """Return the longer side of a pixel on the plane of unit depth: `(worlds,)`. Finer detail would alias."""
        return (1 / (self.focal * torch.tensor([width, height], device=self.focal.device))).amax(1)


@dataclass(frozen=True)
class Hits:
    """Store the first surface that the ray of each pixel meets, and the next one where the first is clear."""

    depth: torch.Tensor  # (pixels,) along the optical axis, inf = nothing
    solid: torch.Tensor  # (pixels,) int64, -1 = nothing
    behind: torch.Tensor | None  # (pixels,) the depth of the next solid
    solid_behind: torch.Tensor | None


def to_local(solids: Solids, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eye `(solids, 3)` and the map of (u, v, 1) to a direction `(solids, 3, 3)`, in units of each solid."""
    inward = solids["axes"].view(-1, 3, 3) / solids["half"][:, :, None]
    origin = (inward @ (camera.eye[solids.world] - solids["center"])[..., None])[..., 0]
    return origin, inward @ camera.axes[solids.world].transpose(1, 2)


def outline_boxes(solids: Solids, camera: Camera, height: int, width: int) -> torch.Tensor:
    """Return the first row and column, and those past the end, of the box around each solid's image: `(4, solids)`."""
    axes = solids["axes"].view(-1, 3, 3) * solids["half"][:, :, None]
    corners = solids["center"][:, None] + _CORNERS.to(axes) @ axes  # (solids, 8, 3)
    seen = (corners - camera.eye[solids.world][:, None]) @ camera.axes[solids.world].transpose(1, 2)
    start, end = seen[:, _EDGES[0].to(axes.device)], seen[:, _EDGES[1].to(axes.device)]  # (solids, 12, 3)
    # Of an edge that crosses the near plane only the part in front of it is seen.
    span = (end[..., 2] - start[..., 2]).abs().clamp(min=1e-9).copysign(end[..., 2] - start[..., 2])
    cross = start + ((NEAR - start[..., 2]) / span).clamp(0, 1)[..., None] * (end - start)
    ends = torch.cat([torch.where(part[..., 2:] >= NEAR, part, cross) for part in (start, end)], 1)
    visible = ((start[..., 2] >= NEAR) | (end[..., 2] >= NEAR)).repeat(1, 2)
    place = ends[..., :2] / ends[..., 2:].clamp(min=NEAR) * camera.focal[solids.world][:, None] + 0.5
    place = place.clamp(-1, 2) * torch.tensor([width, height], device=axes.device)
    low = torch.where(visible[..., None], place, math.inf).amin(1).clamp(max=1e6)
    high = torch.where(visible[..., None], place, -math.inf).amax(1).clamp(min=-1e6)
    limit = torch.tensor([width, height], device=axes.device)
    first = (low.floor().long() - 1).clamp(min=0).minimum(limit)
    past = (high.ceil().long() + 1).clamp(min=0).minimum(limit)
    return torch.stack([first[:, 1], first[:, 0], past[:, 1], past[:, 0]])


def candidate_pairs(solids: Solids, camera: Camera, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the solid and the pixel of every pair that may meet: two `(pairs,)`, ordered by solid."""
    top, left, bottom, right = outline_boxes(solids, camera, height, width)
    wide, tall = (right - left).clamp(min=0), (bottom - top).clamp(min=0)
    tall = torch.where(wide > 0, tall, 0)
    # First the rows of each box, then the pixels of each row: no division.
    owner, step = _spread(tall)
    start = pick(solids.world * (height * width) + top * width + left, owner) + step * width
    row, step = _spread(pick(wide, owner))
    return pick(owner, row), pick(start, row) + step


def pick(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return `values[index]` along the first dimension; on a CPU several times faster than writing that."""
    return values.index_select(0, index)


def of_world(values: torch.Tensor, world: torch.Tensor) -> torch.Tensor:
    """Return `values[world]`; of a single world as a view."""
    return values.expand(len(world), *values.shape[1:]) if len(values) == 1 else pick(values, world)


def _spread(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for `counts[i]` entries each their i, and their number within i."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - pick(first, owner)


def _between(middle: torch.Tensor, half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return middle - half, middle + half


def _box(origin: list[torch.Tensor], ray: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    slabs = [_between(-o / r, 1 / r.abs()) for o, r in zip(origin, ray, strict=True)]
    enter = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    return enter, torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])


def _dot(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    return sum((x * y for x, y in zip(a, b, strict=True)), torch.zeros((), device=a[0].device))  # in a fixed order


def _approach(origin: list[torch.Tensor], ray: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return where on its ray, and at which point, it comes nearest to 0: from there b^2 - ac cancels least."""
    middle = -_dot(origin, ray) / _dot(ray, ray)
    return middle, [o + middle * r for o, r in zip(origin, ray, strict=True)]


def _ball(origin: list[torch.Tensor], ray: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersect rays with the unit ball or circle, by the line's distance from 0: b^2 - ac cancels for small, far solids."""
    square = _dot(ray, ray)
    middle, nearest = _approach(origin, ray)
    return _between(middle, ((1 - _dot(nearest, nearest)) / square).sqrt())  # NaN is a miss


def _rod(origin: list[torch.Tensor], ray: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    (enter, leave), (low, high) = _ball(origin[:2], ray[:2]), _between(-origin[2] / ray[2], 1 / ray[2].abs())
    return torch.maximum(enter, low), torch.minimum(leave, high)


def _cone(origin: list[torch.Tensor], ray: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersect rays with the cone x^2 + y^2 <= ((1 - z) / 2)^2, |z| <= 1: its foot is as wide as the unit rod."""
    rx, ry, rz = ray
    middle, (ox, oy, oz) = _approach(origin, ray)
    size, shrink = (1 - oz) / 2, -rz / 2
    a, b, c = rx * rx + ry * ry - shrink * shrink, ox * rx + oy * ry - size * shrink, ox * ox + oy * oy - size * size
    # b^2 - ac, as squares that do not cancel.
    root = ((ox * shrink - size * rx) ** 2 + (oy * shrink - size * ry) ** 2 - (ox * ry - oy * rx) ** 2).sqrt()
    far = -(b + root.copysign(b))
    one, other = far / a, c / far  # a is 0 where the ray runs along the side: one is infinite
    below = [size + t * shrink >= 0 for t in (one, other)]  # on the mirrored cone above the tip it is negative
    one, other = middle + one, middle + other
    first, second = torch.minimum(one, other), torch.maximum(one, other)
    both = below[0] & below[1]
    inner = torch.where(below[0], one, other)  # where one root lies on the mirrored cone, the ray stays in this one
    downward = rz < 0
    enter = torch.where(both, first, torch.where(downward, inner, -math.inf))
    leave = torch.where(both, second, torch.where(downward, math.inf, inner))
    low, high = _between(middle - oz / rz, 1 / rz.abs())
    enter, leave = torch.maximum(enter, low), torch.minimum(leave, high)
    return torch.where(below[0] | below[1], enter, math.nan), leave


_INTERSECT = {BOX: _box, BALL: _ball, ROD: _rod, CONE: _cone}


def trace(solids: Solids, camera: Camera, height: int, width: int, through: bool = True) -> Hits:
    """Find what each pixel's ray meets first, one camera per world; `through` also looks behind clear solids."""
    solid, pixel = candidate_pairs(solids, camera, height, width)
    shape, (u, v) = pick(solids["shape"], solid), camera.rays(height, width)
    origin, direction = to_local(solids, camera)
    constants = torch.cat([direction.flatten(1), origin], 1).T.contiguous()  # (12, solids)
    found = []
    for kind, intersect in _INTERSECT.items():
        own = (shape == kind).nonzero()[:, 0]  # may be none at all: a camera that looks at nothing but the sky
        which, where = pick(solid, own), pick(pixel, own)
        columns, x, y = constants.index_select(1, which), pick(u, where), pick(v, where)
        # No exact zero: 0 / 0 would be NaN in the middle of a face.
        ray = [columns[3 * i] * x + columns[3 * i + 1] * y + columns[3 * i + 2] + 1e-12 for i in range(3)]
        enter, leave = intersect(list(columns[9:]), ray)
        hit = ((enter > NEAR) & (enter <= leave)).nonzero()[:, 0]
        found.append((pick(which, hit), pick(where, hit), pick(enter, hit)))
    solid, pixel, depth = (torch.cat(parts) for parts in zip(*found, strict=True))
    place = torch.stack([pick(u, pixel), pick(v, pixel)], 1)
    kept = _not_in_a_hole(solids, camera, solid, place, depth, camera.pixel_size(height, width))
    solid, pixel, depth = solid[kept], pixel[kept], depth[kept]
    count = len(camera.eye) * height * width
    first = _nearest(solid, pixel, depth, count)
    if not through or not (solids["clear"] > 0).any():
        return Hits(*first, None, None)
    past = (depth > pick(first[0], pixel) * 1.001) & (solid != pick(first[1], pixel))
    return Hits(*first, *_nearest(solid[past], pixel[past], depth[past], count))


def _nearest(
    solid: torch.Tensor, pixel: torch.Tensor, depth: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    nearest = torch.full((count,), math.inf, device=depth.device).scatter_reduce_(0, pixel, depth, "amin")
    winner = (depth <= pick(nearest, pixel)).nonzero()[:, 0]
    owner = torch.full((count,), -1, device=depth.device)
    return nearest, owner.scatter_reduce_(0, pick(pixel, winner), pick(solid, winner), "amax")


def _not_in_a_hole(solids: Solids, camera: Camera, solid, place, depth, pixel_size) -> torch.Tensor:
    """Return which hits of solids with holes (foliage, lace) are kept: all, where a hole is smaller than a pixel."""
    kept = torch.ones_like(depth, dtype=torch.bool)
    pixels = pick(solids["holes"] / pixel_size[solids.world], solid) / depth  # from hole to hole
    some = (pixels > 3).nonzero()[:, 0]
    if len(some) == 0:
        return kept
    which = pick(solid, some)
    world, place = pick(solids.world, which), pick(place, some)
    point = torch.cat([place, torch.ones_like(place[:, :1])], 1) * pick(depth, some)[:, None]
    point = (point[:, None] @ of_world(camera.axes, world))[:, 0] + of_world(camera.eye, world)
    point = point - pick(solids["center"], which)
    point = point * (math.tau / pick(solids["holes"], which))[:, None]
    turned = point @ torch.tensor([[0.8, 0.36, -0.48], [-0.6, 0.48, -0.64], [0.0, 0.8, 0.6]], device=point.device)
    kept[some] = point.sin().sum(1) + (1.7 * turned).sin().sum(1) > -0.6
    return kept
