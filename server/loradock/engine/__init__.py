"""The resident base and the running batch. The only place that imports torch."""

import os

# Torch's threads (GCC's OpenMP) spin this long before they sleep: some 20 microseconds. The
# default, milliseconds, takes the cores from whatever else wants them, the server's own event loop
# to begin with. It must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
