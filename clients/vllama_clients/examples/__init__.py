"""Example services that call vllama; each runs as it is."""
