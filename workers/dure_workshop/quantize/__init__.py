"""A GGUF file with fewer bits a weight."""
