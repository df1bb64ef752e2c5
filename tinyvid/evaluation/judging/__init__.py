"""Judge answers that no rule can compare: rubrics, the strict form of verdicts, and judges."""
