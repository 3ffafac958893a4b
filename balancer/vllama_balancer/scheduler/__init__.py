"""Which models are loaded where: loading on demand, keep_alive, and eviction."""
