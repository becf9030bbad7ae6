"""The network: the transformer, its attention, its key/value cache, and the counting of its parameters."""
