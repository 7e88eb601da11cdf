"""Compute the colors that the camera sees: textures, lamps with shadows, highlights, clear things, haze and sky."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from depth_anything_hf.scenes.worlds.solids import BALL, BOX, COLUMNS, CONE
from depth_anything_hf.scenes.worlds.textures import LEVELS, SIDE, TEXELS, atlas
from depth_anything_hf.scenes.worlds.tracing import Camera, Hits, Solids, of_world, pick, to_local, trace

SHADOW_SIDE = 128  # pixels of a lamp's view


@dataclass(frozen=True)
class Light:
    """Store the light of each world."""

    lamps: torch.Tensor  # (lamps, worlds, 3) places, meters; a sun is a far lamp
    colors: torch.Tensor  # (lamps, worlds, 3) linear RGB at the scene's middle
    reach: torch.Tensor  # (lamps, worlds) meters over which a lamp halves; inf for a sun
    ambient: torch.Tensor  # (worlds, 3)
    flash: torch.Tensor  # (worlds,) light from the camera's side, without shadows
    zenith: torch.Tensor  # (worlds, 3) color of the sky
    horizon: torch.Tensor  # (worlds, 3) and of the haze
    fog: torch.Tensor  # (worlds,) 1 / meters after which half of the light is haze
    clouds: torch.Tensor  # (worlds, 2) cover, and row of the atlas


def _sample(texture, point: torch.Tensor, footprint: torch.Tensor) -> torch.Tensor:
    """Look up textures `(n,)` at `point` `(n, 2)` in tiles, averaged over a footprint in tiles: `(n, 3)`."""
    texels = atlas(str(point.device))
    level = (footprint * SIDE).clamp(min=1).log2().round().long().clamp(max=LEVELS - 1)
    side = torch.bitwise_right_shift(torch.full_like(level, SIDE), level)
    start = texture.long() * TEXELS + (4 * (SIDE * SIDE - side * side)).div(3, rounding_mode="floor")
    place = (point - point.floor()) * side[:, None] - 0.5
    corner = place.floor()
    (ty, tx), (iy, ix) = (place - corner).unbind(1), corner.long().unbind(1)
    wrap = side - 1  # sides are powers of two
    rows, columns = [iy & wrap, (iy + 1) & wrap], [ix & wrap, (ix + 1) & wrap]
    (a, b), (c, d) = ([pick(texels, start + row * side + column) for column in columns] for row in rows)
    return torch.lerp(torch.lerp(a, b, tx[:, None]), torch.lerp(c, d, tx[:, None]), ty[:, None])


def _surface(solids: Solids, camera: Camera, solid, world, u, v, depth, footprint):
    """Return point, normal and albedo, `(n, 3)` each, where rays meet solids."""
    rows = pick(solids.table, solid)
    origin, direction = (pick(values, solid) for values in to_local(solids, camera))
    unit = origin + (direction @ torch.stack([u, v, torch.ones_like(u)], 1)[..., None])[..., 0] * depth[:, None]
    half, shape = rows[:, COLUMNS["half"]], rows[:, COLUMNS["shape"]]
    flat = unit.abs()
    face = torch.nn.functional.one_hot(flat.argmax(1), 3) * unit.sign()
    radial = unit * torch.tensor([1.0, 1.0, 0.0], device=unit.device)
    slope = torch.where(shape == CONE, (1 - unit[:, 2]).clamp(min=1e-4) / 4, 0.0)
    radial = radial + slope[:, None] * torch.tensor([0.0, 0.0, 1.0], device=unit.device)
    capped = torch.where(shape == CONE, unit[:, 2] < -0.999, flat[:, 2] > flat[:, :2].norm(dim=1).clamp(min=0.99))
    cap = unit.sign() * torch.tensor([0.0, 0.0, 1.0], device=unit.device)
    shape = shape[:, None]
    standing = torch.where(capped[:, None], cap, radial)  # rods and cones
    local = torch.where(shape == BOX, face, torch.where(shape == BALL, unit, standing))
    local = torch.nn.functional.normalize(local / half, dim=1)
    axes = rows[:, COLUMNS["axes"]].view(-1, 3, 3)
    normal = (local[:, None] @ axes)[:, 0]
    point = (unit * half)[:, None] @ axes
    point = point[:, 0] + rows[:, COLUMNS["center"]]
    # The texture lies on the two axes that the normal is farthest from.
    main = local.abs().argmax(1, keepdim=True)
    others = torch.cat([(main + 1) % 3, (main + 2) % 3], 1)
    others = others.sort(1, descending=True).values  # z first: courses of bricks lie level
    period = rows[:, COLUMNS["period"]]
    place = (unit * half).gather(1, others) / period[:, None] + rows[:, COLUMNS["phase"]]
    view = torch.nn.functional.normalize(of_world(camera.eye, world) - point, dim=1)
    slant = (view * normal).sum(1).abs().clamp(min=0.1)
    texture = _sample(rows[:, COLUMNS["texture"]], place, footprint / (period * slant))
    contrast = rows[:, COLUMNS["contrast"], None]
    albedo = rows[:, COLUMNS["tint"]] * (1 + 1.6 * contrast * (2 * texture - 1))
    return point, normal, view, albedo.clamp(0.004, 0.95), rows


def _lamp_cameras(light: Light, lamp: int, middle: torch.Tensor, radius: torch.Tensor) -> Camera:
    """Return the views from a lamp of each world onto a ball around the visible surfaces."""
    eye = light.lamps[lamp]
    forward = middle - eye
    distance = forward.norm(dim=1, keepdim=True).clamp(min=1e-3)
    forward = forward / distance
    up = torch.tensor([0.0, 0.0, 1.0], device=eye.device).expand_as(forward)
    up = torch.where(forward[:, 2:].abs() > 0.95, torch.tensor([1.0, 0.0, 0.0], device=eye.device), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    down = torch.linalg.cross(forward, right)
    spread = (radius[:, None] / distance).clamp(max=2.0)  # a lamp in the midst of things sees a part of them
    return Camera(eye, torch.stack([right, down, forward], 1), (0.5 / spread).expand(-1, 2))


def _lit(shadows: Hits, camera: Camera, world: torch.Tensor, point: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return which points `(n, 3)` a lamp reaches, softened over its view's pixels: `(n,)` in [0, 1]."""
    axes = of_world(camera.axes.transpose(1, 2).contiguous(), world)
    seen = ((point - of_world(camera.eye, world))[:, None] @ axes)[:, 0]
    place = (seen[:, :2] / seen[:, 2:].clamp(min=1e-3) * of_world(camera.focal, world) + 0.5) * SHADOW_SIDE - 0.5
    inside = ((place > 0) & (place < SHADOW_SIDE - 1)).all(1) & (seen[:, 2] > 0)
    place = place.clamp(0, SHADOW_SIDE - 1.001)
    corner = place.floor()
    (tx, ty), (ix, iy) = (place - corner).unbind(1), corner.long().unbind(1)
    start = world * SHADOW_SIDE**2 + iy * SHADOW_SIDE + ix
    limit = seen[:, 2] - bias
    a, b, c, d = ((pick(shadows.depth, start + step) > limit).float() for step in (0, 1, SHADOW_SIDE, SHADOW_SIDE + 1))
    share = torch.lerp(torch.lerp(a, b, tx), torch.lerp(c, d, tx), ty)
    return torch.where(inside, share, 1.0)


def _sky(light: Light, world: torch.Tensor, ray: torch.Tensor) -> torch.Tensor:
    """Return the sky's color along directions `(n, 3)`."""
    rise = torch.nn.functional.normalize(ray, dim=1)[:, 2]
    color = torch.lerp(of_world(light.horizon, world), of_world(light.zenith, world), rise.clamp(0, 1).sqrt()[:, None])
    cover, row = of_world(light.clouds, world).unbind(1)
    place = ray[:, :2] / (ray[:, 2:].clamp(min=0.05) * 6)
    cloud = (_sample(row, place, torch.full_like(rise, 1 / SIDE)).mean(1) * 2 - 2 + 2 * cover).clamp(0, 1)
    cloud = cloud * (rise > 0.02)
    return torch.lerp(color, of_world(light.horizon, world) * 1.1, cloud[:, None] * (rise * 5).clamp(0, 1)[:, None])


def shade(
    solids: Solids, camera: Camera, light: Light, hits: Hits, height: int, width: int, shadows: bool = True
) -> torch.Tensor:
    """Return the linear colors of all pixels, `(worlds * height * width, 3)`."""
    u, v = camera.rays(height, width)
    world = torch.arange(len(camera.eye), device=u.device).repeat_interleave(height * width)
    middle, radius = _seen_ball(camera, hits, height, width)
    lamps = [_lamp_cameras(light, i, middle, radius) for i in range(len(light.lamps))]
    side = SHADOW_SIDE
    views = [(lamp, trace(solids, lamp, side, side, through=False) if shadows else None) for lamp in lamps]
    scene = (solids, camera, light, views, radius, camera.pixel_size(height, width))
    color = _shade_layer(scene, world, u, v, hits.depth, hits.solid)
    if hits.behind is not None and hits.solid_behind is not None:
        clear = torch.where(hits.solid >= 0, pick(solids["clear"], hits.solid.clamp(min=0)), 0.0)
        some = (clear > 0).nonzero()[:, 0]
        layer = (pick(values, some) for values in (world, u, v, hits.behind, hits.solid_behind))
        back = _shade_layer(scene, *layer)
        color[some] = torch.lerp(color[some], back, clear[some, None])
    return color


def _seen_ball(camera: Camera, hits: Hits, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the middle and the radius of most visible surfaces, for each world."""
    worlds = len(camera.eye)
    depth = hits.depth.view(worlds, height, width)[:, ::8, ::8].flatten(1)
    typical = torch.where(depth.isfinite(), depth, 1e4).sort(1).values[:, int(0.75 * depth.shape[1])].clamp(max=60)
    middle = camera.eye + camera.axes[:, 2] * (typical * 0.6)[:, None]
    return middle, typical * 0.75


def _shade_layer(scene: tuple, world, u, v, depth, solid) -> torch.Tensor:
    solids, camera, light, views, radius, pixel_size = scene
    right, down, forward = of_world(camera.axes, world).unbind(1)
    ray = u[:, None] * right + v[:, None] * down + forward
    color = torch.empty_like(ray)
    none, some = (solid < 0).nonzero()[:, 0], (solid >= 0).nonzero()[:, 0]
    if len(none):
        color[none] = _sky(light, pick(world, none), pick(ray, none))
    if len(some) == 0:
        return color
    world, u, v, depth, solid = (pick(values, some) for values in (world, u, v, depth, solid))
    footprint = depth * of_world(pixel_size, world)
    point, normal, view, albedo, rows = _surface(solids, camera, solid, world, u, v, depth, footprint)
    gloss = rows[:, COLUMNS["gloss"], None]
    toward = (view * normal).sum(1, keepdim=True)
    mirrored = 2 * toward * normal - view
    up = 0.7 + 0.3 * normal[:, 2:]
    diffuse = of_world(light.ambient, world) * up + of_world(light.flash, world)[:, None] * toward.clamp(min=0)
    sky = torch.lerp(of_world(light.horizon, world), of_world(light.zenith, world), mirrored[:, 2:].clamp(0, 1))
    highlight = gloss * 0.25 * sky * (0.2 + 0.8 * (1 - toward.abs()) ** 3)
    for i, (lamp, shadows) in enumerate(views):
        beam = of_world(light.lamps[i], world) - point
        distance = beam.norm(dim=1, keepdim=True).clamp(min=1e-3)
        beam = beam / distance
        facing = (beam * normal).sum(1, keepdim=True)
        slant = facing[:, 0].clamp(min=0.15)
        bias = 0.02 * of_world(radius, world) + 0.004 * distance[:, 0] / slant / of_world(lamp.focal[:, 0], world)
        raised = point + 0.01 * of_world(radius, world)[:, None] * normal
        lit = torch.ones_like(bias) if shadows is None else _lit(shadows, lamp, world, raised, bias)
        faded = 1 + (distance / of_world(light.reach[i], world)[:, None]) ** 2
        strength = lit[:, None] * of_world(light.colors[i], world) / faded
        diffuse = diffuse + strength * facing.clamp(min=0)
        highlight = highlight + gloss * strength * (mirrored * beam).sum(1, keepdim=True).clamp(min=0) ** 24
    lit = albedo * diffuse + highlight + rows[:, COLUMNS["glow"], None] * rows[:, COLUMNS["tint"]]
    haze = 1 / (1 + of_world(light.fog, world) * depth)
    color[some] = torch.lerp(of_world(light.horizon, world), lit, haze[:, None])
    return color
