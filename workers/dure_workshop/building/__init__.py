"""A recipe: the workshop's commands in a row, from a model that is there to one that can be served."""
