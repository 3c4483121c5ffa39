"""Examples: small flows to learn from and to copy; README.md lists them."""
