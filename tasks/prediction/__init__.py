"""Predictions of a trained model for the rows of a file, in shards of constant size."""
