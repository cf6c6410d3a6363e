"""The gate before the Hub: a folder is opened as strangers open it, searched, and compared with its own training."""
