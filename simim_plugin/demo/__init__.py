"""The demo: draw a data set, pretrain on it and report what is learned."""
