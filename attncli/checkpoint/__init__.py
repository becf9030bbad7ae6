"""Models on disk: Hugging Face directories, written atomically and read as untrusted input."""
