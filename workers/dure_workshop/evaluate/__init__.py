"""What a model is worth, measured alike for every engine and artifact."""
