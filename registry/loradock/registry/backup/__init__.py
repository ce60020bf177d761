"""Backups: all of a catalog at one moment, and every blob that it speaks of."""
