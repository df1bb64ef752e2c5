"""Judge open answers, which no rule can score: rubrics, verdicts and judges."""
