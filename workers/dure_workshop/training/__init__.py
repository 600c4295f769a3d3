"""Teaching a model: what it learns from, and from whom."""
