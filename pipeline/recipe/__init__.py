"""What to run and with which settings: `params.yaml` and `recipes/<name>.yaml`, read strictly."""
