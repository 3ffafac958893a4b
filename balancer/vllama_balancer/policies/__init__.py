"""Which worker takes a request: pick(snapshot, request), plain functions of one immutable view."""
