"""The resident base and the running batch. The only place that imports torch."""

import os

# A thread that waits for the others spins this long before it sleeps: some 20 microseconds. The
# default of GCC's OpenMP, milliseconds, lets a step take ten times as long wherever something else
# wants a core, the server's own event loop to begin with. Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
