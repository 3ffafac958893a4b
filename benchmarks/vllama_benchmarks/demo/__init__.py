"""`vllama demo`: a fleet, many chats at once, and a table of the workers that served them.

`command` starts a fleet (fleet_process.py) or takes a URL, `load` sends the chats, `table` shows the result.
"""
