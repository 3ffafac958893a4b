"""Workers on a Ray cluster: Ray finds the nodes and the GPUs; what is generated never passes through it."""
