"""Cutting a model's vocabulary down to the languages that it is to speak, on the quantized rows themselves."""
