"""Which versions are in memory and on disk, and who holds them there."""
