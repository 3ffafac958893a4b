"""Many generations over one Relay call.

- `relayed_call`: receives requests, runs a task for each generation, and sends their events.
- `send_buffer`: events that are not sent yet; all that is there leaves as one message.
- `flow_control`: how many messages may be sent before the caller asks for more.
"""
