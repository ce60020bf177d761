"""The only part of the engine that is for CPUs alone: a decoder whose arithmetic is in C."""
