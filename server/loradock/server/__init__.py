"""The server process: services, residency, configuration, start and stop. Light to import."""
