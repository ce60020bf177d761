"""Between values and messages. Generated messages are touched here and where calls are made."""
