"""Callbacks of a training run, and what they share."""
