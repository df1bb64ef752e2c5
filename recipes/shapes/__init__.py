"""The recipe of the default model: see ``python -m recipes.shapes --help``."""
