"""Metrics as functions of sufficient statistics, a module for each family; none knows of models."""
