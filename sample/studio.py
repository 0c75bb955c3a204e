"""The room a car is photographed in, and where the camera stands."""

from dataclasses import dataclass

from sample.paint import Colour


@dataclass(frozen=True)
class Studio:
    """The room and the camera, which looks at the middle of the turntable."""

    word: str  # on the wall
    wall: Colour
    floor: Colour
    distance: float  # metres, camera to the turntable's axis
    camera_height: float  # metres
    focal: float  # pixels
    offset: tuple[float, float]  # metres, the car's middle from the axis
    heading: float  # degrees, added to every view
    shift: tuple[float, float]  # pixels, of the wall in the image
