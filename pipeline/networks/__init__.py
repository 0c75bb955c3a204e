"""Networks, their files, and probabilities for a stream of images."""
