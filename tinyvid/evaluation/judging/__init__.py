"""Judges for answers that no rule can compare: rubrics, strict verdicts, and the models that give them."""
