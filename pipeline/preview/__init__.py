"""Command `preview`."""
