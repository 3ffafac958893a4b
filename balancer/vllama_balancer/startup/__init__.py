"""The life of the balancer's process: ports, doors, fleet, welcome, log, and the orderly end."""
