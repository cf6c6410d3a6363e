"""Numbers about a model, and text out of it."""
