"""The resident base and the running batch. The only place that imports torch."""
