"""The kinds of worlds: each fills a `World` and returns its view and light."""

from __future__ import annotations

from depth_anything_hf.scenes.worlds.closeups import backdrop, clutter, tabletop
from depth_anything_hf.scenes.worlds.landscapes import country, street
from depth_anything_hf.scenes.worlds.rooms import room

LAYOUTS = {
    "room": room,
    "tabletop": tabletop,
    "backdrop": backdrop,
    "street": street,
    "country": country,
    "clutter": clutter,
}
