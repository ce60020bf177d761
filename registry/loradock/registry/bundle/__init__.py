"""Bundles: versions with all that they need in one file, for a registry that can't be reached."""
