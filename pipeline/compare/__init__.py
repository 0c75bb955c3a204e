"""Command `compare`."""
