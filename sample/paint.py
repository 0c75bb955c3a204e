"""The sample's colours: paints a car may have, those of its details, and their shades."""

Colour = tuple[int, int, int]  # RGB, 0-255

BLACK: Colour = (20, 20, 22)
DARK: Colour = (44, 44, 46)
CHROME: Colour = (186, 188, 192)

PAINTS: dict[str, Colour] = {
    "white": (232, 233, 232), "silver": (176, 180, 184), "light grey": (206, 207, 205),
    "black": (22, 23, 25), "red": (150, 20, 28), "blue": (36, 74, 150), "grey": (92, 95, 99),
    "navy": (24, 34, 66), "pearl": (224, 220, 210), "brown": (84, 62, 48),
    "green": (40, 78, 62), "orange": (196, 92, 30),
}  # fmt: skip


def scaled(colour: Colour, by: float, plus: float = 0) -> Colour:
    """The colour with each channel times `by` plus `plus`, cut at 255."""
    red, green, blue = (int(min(255, channel * by + plus)) for channel in colour)
    return red, green, blue
