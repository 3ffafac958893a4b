"""Says before a model is loaded whether it fits: its shape, the device's memory, and the advice that follows."""
