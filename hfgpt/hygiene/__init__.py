"""What should not be in data or models: copies of test sets, secrets, poison; and what a model has memorized."""
