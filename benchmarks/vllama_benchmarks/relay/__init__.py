"""Measures what the relay between a worker and a client costs, with simulated engines that cost next to nothing."""
