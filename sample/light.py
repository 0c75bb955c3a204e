"""The light on a car: lamps, what the floor sends back, and the room mirrored in the paint."""

import numpy as np
from numpy.typing import NDArray

from sample.raster import Fragments
from sample.smoothstep import smoothstep
from sample.studio import Studio
from sample.texture import sampled


def shaded(found: Fragments, texture: NDArray[np.uint8], studio: Studio) -> NDArray[np.float32]:
    """The colour (N, 3), RGB, of the fragments: 0 is black, 1 white, highlights above."""
    x, y, z, nx, ny, nz, u, v = (found.value(number) for number in range(8))
    scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-6)
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    ex, ey, ez = -x, -studio.distance - y, studio.camera_height - z  # towards the camera
    scale = 1 / np.sqrt(ex * ex + ey * ey + ez * ez)
    ex, ez = ex * scale, ez * scale
    facing = (nx * ex + ny * ey * scale + nz * ez).clip(0.02, 1)
    mirrored = _room(2 * facing * nx - ex, 2 * facing * nz - ez)
    lamp = (-0.35 * nx - 0.65 * ny + 0.68 * nz).clip(0)
    shelter = 0.68 + 0.32 * smoothstep(0.05, 0.65, z)  # the floor sends less light to low places
    red, green, blue, gloss = sampled(texture, u, v)
    mirror = gloss * (0.06 + 0.94 * (1 - facing) ** 5)  # Schlick's law
    light = (0.49 + 0.32 * nz + 0.34 * lamp) * shelter * (1 - mirror)
    glint = gloss * 0.16 * smoothstep(0.80, 1.05, mirrored)
    shine = (mirror * mirrored * 1.25 + glint) * shelter
    return np.stack([red * light + shine, green * light + shine, blue * light + shine], axis=1)


def _room(x: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a mirror shows (0-1.2) in direction x (right), z (up): soft boxes, wall, floor."""
    floor = 0.40 + 0.12 * smoothstep(-0.7, 0, z)
    wall = 0.82 + 0.1 * z
    boxes = 0.75 + 0.45 * smoothstep(-0.2, 0.2, np.cos(7 * x / (0.4 + z.clip(0))))
    ceiling, above = smoothstep(0.30, 0.55, z), smoothstep(-0.03, 0.05, z)
    return np.asarray((floor + (wall - floor) * above) * (1 - ceiling) + boxes * ceiling)
