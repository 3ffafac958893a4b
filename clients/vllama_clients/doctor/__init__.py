"""`vllama doctor`: looks at the machine and says what would keep vllama from serving, and what to do."""
