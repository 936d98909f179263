"""Runs: recipes, their checkpoints and what watches them."""
