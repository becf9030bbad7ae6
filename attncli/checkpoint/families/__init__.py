"""The model families of Hugging Face directories, each in its own file; `registry.py` lists them."""
