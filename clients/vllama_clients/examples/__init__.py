"""Examples of internal services that call vllama; each runs as it is."""
