"""What the dialects' translations share: the messages of the protos, and no dialect's JSON; all of it is pure.

- into a request: chat.py, images.py, tools.py, json_text.py (JSON in text fields), bounds.py (numbers in range);
- then capabilities.py checks it against the model, and presets.py fills in what it leaves open;
- out of a generation: accumulator.py (events, and whole replies), merge.py (several generations as one stream).
"""
