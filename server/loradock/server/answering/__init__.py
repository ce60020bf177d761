"""From a request to its answer, through the engine."""
