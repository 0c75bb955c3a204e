"""The kinds of car the sample has."""

from sample.shape import Shape

SHAPES: dict[str, Shape] = {
    "sedan": Shape(
        length=4.85, width=1.84, height=1.46, wheelbase=2.80, wheel_radius=0.345, clearance=0.19,
        cuts=(0.28, 0.43, 0.70, 0.87), levels=(0.51, 0.655, 0.70), roof=0.72,
    ),
    "coupe": Shape(
        length=4.60, width=1.86, height=1.39, wheelbase=2.70, wheel_radius=0.355, clearance=0.16,
        cuts=(0.30, 0.45, 0.66, 0.90), levels=(0.50, 0.665, 0.71), roof=0.70,
    ),
    "hatchback": Shape(
        length=4.20, width=1.78, height=1.51, wheelbase=2.58, wheel_radius=0.33, clearance=0.19,
        cuts=(0.25, 0.41, 0.83, 0.955), levels=(0.52, 0.64, 0.66), roof=0.75,
    ),
    "suv": Shape(
        length=4.75, width=1.92, height=1.75, wheelbase=2.78, wheel_radius=0.39, clearance=0.25,
        cuts=(0.25, 0.385, 0.88, 0.955), levels=(0.56, 0.64, 0.65), roof=0.78,
    ),
    "van": Shape(
        length=5.10, width=1.98, height=1.78, wheelbase=3.05, wheel_radius=0.345, clearance=0.19,
        cuts=(0.15, 0.31, 0.93, 0.97), levels=(0.50, 0.58, 0.59), roof=0.83,
    ),
    "pickup": Shape(
        length=5.45, width=1.96, height=1.84, wheelbase=3.40, wheel_radius=0.40, clearance=0.29,
        cuts=(0.25, 0.36, 0.585, 0.625), levels=(0.57, 0.63, 0.62), roof=0.78,
    ),
}  # fmt: skip

# Where posts part the side glass, shares of its length.
POSTS: dict[str, tuple[float, ...]] = {
    "sedan": (0.50, 0.90),
    "coupe": (0.64,),
    "hatchback": (0.45, 0.84),
    "suv": (0.40, 0.73),
    "van": (0.34, 0.66),
    "pickup": (0.56,),
}

WITH_BOOT = ("sedan", "coupe")  # a lid below a sloping rear window
WITH_TAILGATE = ("suv", "van", "hatchback")  # the roof goes on to the rear
