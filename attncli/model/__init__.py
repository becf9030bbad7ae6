"""The network: the transformer, its attention, its KV cache, its backends, and counts of its parameters."""
