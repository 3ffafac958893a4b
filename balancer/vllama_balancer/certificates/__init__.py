"""The fleet's own certificate authority: `vllama certs`."""
