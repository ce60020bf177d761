"""The wire: services, what they say in values, and what every call passes through."""
