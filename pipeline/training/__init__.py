"""Parts of stage `train`."""
