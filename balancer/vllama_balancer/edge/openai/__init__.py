"""OpenAI's JSON, straight to and from the wire's messages."""
