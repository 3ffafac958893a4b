"""How a request comes to its end: admitted, tried, relayed, and continued elsewhere when a worker is lost."""
