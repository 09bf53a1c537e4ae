"""Training recipes: what goes in, what is predicted, what is logged."""
