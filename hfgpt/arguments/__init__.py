"""The recipes' arguments; nothing here imports torch before it is needed, so mistakes are reported at once."""
