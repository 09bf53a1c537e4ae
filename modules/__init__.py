"""Layers: what turns audio into features, features into encoder states, and states into predictions."""
