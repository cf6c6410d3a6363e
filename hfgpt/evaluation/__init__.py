"""Evaluate a model, and generate text with it."""
