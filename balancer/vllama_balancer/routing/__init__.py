"""Where a request goes: what is known of it and of the workers, and the one step from a look to a reserved place."""
