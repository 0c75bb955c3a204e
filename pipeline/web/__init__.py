"""Kaggle, and whatever else goes over the network."""
