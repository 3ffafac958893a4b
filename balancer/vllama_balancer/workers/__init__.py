"""The workers as the balancer knows them: connections, state, load, health, and the pool of them all."""
