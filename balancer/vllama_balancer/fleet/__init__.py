"""Where workers come from; each source yields Added and Removed."""
