"""What no result depends on: errors, files, devices, processes, progress, pictures."""
