"""Answers of models, for judging and for teaching."""
