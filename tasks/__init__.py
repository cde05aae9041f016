"""The steps of an experiment. Importing this package starts nothing and imports nothing heavy."""
