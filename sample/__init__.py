"""A program of its own that draws the built-in sample: a small synthetic Carvana."""
