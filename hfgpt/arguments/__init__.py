"""The recipes' arguments; nothing here imports torch before it is needed, so that mistakes are answered at once."""
