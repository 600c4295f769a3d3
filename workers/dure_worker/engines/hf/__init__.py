"""What the transformers engine is made of: loading, prompts, text, one answer on its way."""
