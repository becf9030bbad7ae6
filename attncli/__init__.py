"""attncli: train a transformer on your own text, generate from it, and see how its attention works."""

__version__ = "0.1.0"
