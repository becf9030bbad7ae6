"""GGUF, the file format of llama.cpp: reading a file as a model, and writing one."""
