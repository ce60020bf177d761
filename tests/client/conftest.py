"""Servers to call: one that a test scripts, beside the real one."""

from scripted_server import scripted  # noqa: F401 - a fixture
