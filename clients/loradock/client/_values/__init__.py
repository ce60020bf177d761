"""The nouns of the SDK: immutable values, known to no wire."""
