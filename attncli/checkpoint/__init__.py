"""Models on the disk: Hugging Face directories, which are written atomically and read as untrusted input."""
