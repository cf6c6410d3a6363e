"""The gate before the Hub: a folder is opened as a stranger would open it, searched, and compared with its own training."""
