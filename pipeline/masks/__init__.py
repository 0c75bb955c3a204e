"""Masks as run lengths: the submission's text, regions, and the file Kaggle takes."""
