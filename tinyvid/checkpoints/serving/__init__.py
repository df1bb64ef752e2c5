"""Write a model in a layout of transformers, in which other programs serve it: the inverse of ``compat``."""
