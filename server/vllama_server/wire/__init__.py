"""Pure conversions between the wire's messages and the engine's types, one direction per module."""
