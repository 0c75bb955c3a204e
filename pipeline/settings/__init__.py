"""The schema of `recipes/<name>.yaml`: one module per group of sections, no defaults."""
