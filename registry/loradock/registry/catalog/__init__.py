"""The catalog: SQL behind the registry's nouns, one module per noun. Rows never leave it."""
