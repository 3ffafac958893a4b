"""Pieces of the wire's messages that every dialect builds and reads; pure, and free of any dialect's JSON."""
