"""`vllama demo`: a fleet, many chats at once, and a table of who served them and how fast."""
