"""From test images to rows of a submission: parts of stage `predict`."""
