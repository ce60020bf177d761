"""Alembic migrations; `catalog/schema.py` runs them."""
