"""A car on a studio turntable, drawn from numbers: the image of a view and its exact mask.

A car is a few closed surfaces (body, cabin, wheels, tubes). Each is a grid of quads with a
texture; every quad is filled with its number, twice as fine as the image, and what is seen at
a pixel (place, normal, texture) is read back from that number and shaded. The mask is the
union of the same quads, so it fits the image to the pixel.

Car coordinates are metres: x forward, y left, z up from the floor under the car's middle.
Floor coordinates are metres from the turntable's axis: x right, y away from the camera, z up.
"""
