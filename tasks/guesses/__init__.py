"""The simplest guesses of each kind of problem, without a model."""
