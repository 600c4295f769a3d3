"""A GGUF file with fewer parameters."""
