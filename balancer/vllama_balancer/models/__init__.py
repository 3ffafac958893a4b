"""Which models exist, what they are called, and where their weights come from."""
