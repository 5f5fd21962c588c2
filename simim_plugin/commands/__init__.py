"""The commands behind ``tools/``: each parses its options and runs."""
