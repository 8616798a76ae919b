"""Probabilities and work folders with known truth, for benches and tests."""
