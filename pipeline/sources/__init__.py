"""One module per data set: how its images, masks and groups pair up."""
