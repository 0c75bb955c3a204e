"""Probabilities as levels: what one is, how maps of them are resized, and how they are kept."""
