"""Many generations over one call: what the engine has made since the last message travels together."""
