"""Predictions and targets in, one scalar out."""
