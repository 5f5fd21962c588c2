"""The demo: from nothing to a learned representation, in minutes."""
