"""Model families of Hugging Face directories: one file each; `registry.py` lists them."""
