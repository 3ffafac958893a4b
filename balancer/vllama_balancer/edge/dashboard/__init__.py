"""The page for browsers: one file, no build step, nothing from elsewhere."""
