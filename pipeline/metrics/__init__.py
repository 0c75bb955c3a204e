"""Scores of masks: the competition's Dice at every threshold, and those of several classes."""
