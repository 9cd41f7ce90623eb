"""Synthetic garments: ten classes of 28×28 pictures, drawn from a seed.

They stand in for Fashion-MNIST where it cannot be had, and have its shapes and its labels. Only
additions, products, square roots and comparisons are used, which IEEE 754 fixes to the last bit,
so a seed gives the same bytes on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 28
Plane = NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canvas:
    """Where and how the garments of one class are drawn.

    Attributes:
        x: each pixel's place across its garment, about −1 to 1, float32 (n, 28, 28).
        y: the same, downwards.
        random: gives n numbers between its two arguments, float32 (n, 1, 1).
    """

    x: Plane
    y: Plane
    random: Callable[[float, float], Plane]

    def box(
        self, cx: Plane | float, cy: Plane | float, w: Plane | float, h: Plane | float
    ) -> Plane:
        """Depth inside a box with this centre, half width and half height; outside it is < 0."""
        inside = np.minimum(w - np.abs(self.x - cx), h - np.abs(self.y - cy))
        return np.asarray(inside, np.float32)

    def limb(
        self,
        x0: Plane | float,
        y0: Plane | float,
        x1: Plane | float,
        y1: Plane | float,
        radius: Plane | float,
    ) -> Plane:
        """Depth inside a rounded bar from (x0, y0) to (x1, y1)."""
        dx, dy = x1 - x0, y1 - y0
        along = ((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy)
        along = np.clip(along, 0, 1)
        from_x, from_y = self.x - x0 - along * dx, self.y - y0 - along * dy
        return np.asarray(radius - np.sqrt(from_x * from_x + from_y * from_y), np.float32)

    def sleeves(self, reach: Plane, radius: Plane) -> Plane:
        """Depth inside two sleeves; `reach` is 0 for none and 1 for down to the hem."""
        spread, drop = 0.25 + 0.12 * reach, 0.15 + 1.05 * reach
        left = self.limb(-0.38, -0.6, -0.38 - spread, -0.6 + drop, radius)
        right = self.limb(0.38, -0.6, 0.38 + spread, -0.6 + drop, radius)
        return np.maximum(left, right)

    def neck(self, depth: Plane) -> Plane:
        """Depth inside a neckline at the top."""
        return self.limb(-0.1, -0.85, 0.1, -0.85, depth)


def draw_garments(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draws garments of all ten classes, as many of each as `count` allows, in random order.

    Returns:
        images uint8 (count, 28, 28, 1) and labels int64 (count,); the same for the same seed.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(_DRAW))
    images = np.empty((count, SIDE, SIDE, 1), np.uint8)
    for label, draw in enumerate(_DRAW):
        positions = np.flatnonzero(labels == label)
        images[positions, :, :, 0] = _render(draw, len(positions), rng)
    return images, labels


def _render(
    draw: Callable[[_Canvas], Plane], count: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    def random(low: float, high: float) -> Plane:
        unit = rng.random((count, 1, 1), dtype=np.float32)
        return np.float32(low) + unit * np.float32(high - low)

    axis = (np.arange(SIDE, dtype=np.float32) - np.float32(13.5)) / np.float32(13.5)
    x, y = axis[None, None, :], axis[None, :, None]
    wide, tall = random(0.8, 1.15), random(0.85, 1.12)
    x = (x + random(-0.12, 0.12) + random(-0.12, 0.12) * y) / wide
    y = (y + random(-0.1, 0.1)) / tall
    canvas = _Canvas(x=x, y=np.broadcast_to(y, x.shape), random=random)
    cover = np.clip(0.5 + 9 * draw(canvas), 0, 1)
    stripe = np.abs((canvas.x * random(0, 3) + canvas.y * random(0, 5)) % 1 - 0.5)
    light = random(0.35, 1) * (1 - random(0, 0.9) * stripe)
    grain = rng.random(cover.shape, dtype=np.float32) - np.float32(0.5)
    shade = cover * (light + random(0.05, 0.35) * grain) + 0.08 * np.maximum(grain - 0.35, 0)
    return np.asarray(np.rint(255 * np.clip(shade, 0, 1)), np.uint8)


def _without(shape: Plane, hole: Plane) -> Plane:
    return np.minimum(shape, -hole)


def _draw_top(c: _Canvas) -> Plane:
    torso = np.maximum(
        c.box(0, 0.05, c.random(0.36, 0.48), 0.78), c.sleeves(c.random(0, 0.3), c.random(0.12, 0.2))
    )
    return _without(torso, c.neck(c.random(0.1, 0.25)))


def _draw_trouser(c: _Canvas) -> Plane:
    gap, leg = c.random(0.1, 0.22), c.random(0.1, 0.17)
    legs = np.maximum(
        c.limb(-gap, -0.7, -gap - 0.05, 0.8, leg), c.limb(gap, -0.7, gap + 0.05, 0.8, leg)
    )
    return np.maximum(legs, c.box(0, -0.7, gap + leg, c.random(0.12, 0.25)))


def _draw_pullover(c: _Canvas) -> Plane:
    torso = np.maximum(
        c.box(0, 0.05, c.random(0.36, 0.5), 0.76),
        c.sleeves(c.random(0.75, 1), c.random(0.12, 0.19)),
    )
    return _without(torso, c.neck(c.random(0.02, 0.16)))


def _draw_dress(c: _Canvas) -> Plane:
    waist, flare = c.random(0.15, 0.27), c.random(0.08, 0.3)
    skirt = waist + flare * np.maximum(c.y + 0.2, 0)
    bodice = waist + 0.12 * np.maximum(-0.3 - c.y, 0)
    body = np.minimum(np.maximum(skirt, bodice) - np.abs(c.x), 0.9 - np.abs(c.y))
    body = np.maximum(body, c.sleeves(c.random(0, 0.5), c.random(-0.15, 0.1)))
    return _without(np.asarray(body, np.float32), c.neck(c.random(0.05, 0.25)))


def _draw_coat(c: _Canvas) -> Plane:
    torso = np.maximum(
        c.box(0, 0.08, c.random(0.38, 0.5), 0.84),
        c.sleeves(c.random(0.75, 1), c.random(0.12, 0.19)),
    )
    front = c.box(c.random(-0.06, 0.06), 0.1, c.random(-0.02, 0.05), 0.9)
    return _without(_without(torso, front), c.neck(c.random(0.08, 0.22)))


def _draw_sandal(c: _Canvas) -> Plane:
    heel = c.random(0, 0.5)
    sole = c.limb(-0.8, 0.45, 0.75, 0.45 - heel, c.random(0.06, 0.13))
    straps = np.maximum(
        c.limb(-0.6, 0.4, c.random(-0.4, -0.1), -0.15, c.random(0.04, 0.09)),
        c.limb(c.random(-0.3, 0), -0.15, 0.3, 0.4, c.random(0.04, 0.09)),
    )
    back = c.limb(0.7, 0.4 - heel, c.random(0.5, 0.8), -0.35, c.random(0.03, 0.08))
    post = c.limb(0.75, 0.45 - heel, 0.78, 0.5, c.random(0.04, 0.08))
    return np.maximum(np.maximum(sole, straps), np.maximum(back, post))


def _draw_shirt(c: _Canvas) -> Plane:
    torso = np.maximum(
        c.box(0, 0.05, c.random(0.36, 0.48), 0.79),
        c.sleeves(c.random(0.15, 1), c.random(0.11, 0.18)),
    )
    placket = c.box(0, 0.1, c.random(-0.05, 0.02), 0.7)
    collar = np.maximum(c.limb(-0.22, -0.75, 0, -0.5, 0.03), c.limb(0.22, -0.75, 0, -0.5, 0.03))
    return _without(_without(torso, placket), np.maximum(collar, c.neck(c.random(0.02, 0.2))))


def _draw_sneaker(c: _Canvas) -> Plane:
    return _draw_shoe(c, c.random(-0.1, 0.1))


def _draw_bag(c: _Canvas) -> Plane:
    top = c.random(-0.35, 0)
    body = c.box(0, (top + 0.75) / 2, c.random(0.5, 0.85), (0.75 - top) / 2)
    reach, strap = c.random(0.15, 0.4), c.random(0.04, 0.09)
    ring = np.abs(c.limb(-reach, top, reach, top, c.random(0.25, 0.45)))
    return np.maximum(body, np.minimum(strap - ring, top - c.y))


def _draw_boot(c: _Canvas) -> Plane:
    return _draw_shoe(c, c.random(-0.75, -0.15))


def _draw_shoe(c: _Canvas, top: Plane) -> Plane:
    foot = c.limb(-0.62, 0.32, 0.5, 0.25, c.random(0.17, 0.27))
    shaft = c.box(0.45, (top + 0.5) / 2, c.random(0.22, 0.34), (0.5 - top) / 2)
    instep = c.limb(-0.35, 0.2, 0.4, top + 0.15, c.random(0.08, 0.16))
    sole = c.box(-0.02, 0.52, c.random(0.75, 0.85), c.random(0.05, 0.11))
    return np.maximum(np.maximum(foot, shaft), np.maximum(instep, sole))


_DRAW = (
    _draw_top,
    _draw_trouser,
    _draw_pullover,
    _draw_dress,
    _draw_coat,
    _draw_sandal,
    _draw_shirt,
    _draw_sneaker,
    _draw_bag,
    _draw_boot,
)
