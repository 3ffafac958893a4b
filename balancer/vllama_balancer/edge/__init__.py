"""The HTTP front door; the only importer of aiohttp in the balancer."""
