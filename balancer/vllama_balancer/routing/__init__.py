"""Routing: which worker takes a request. Pure functions of a snapshot and the request; no worker, no I/O.

A snapshot of the workers and the size of a request come in; the name of a worker goes out.

- snapshot.py: a policy's input. policy.py: the interface of policies. policies.py: all of them by name.
- expected_completion.py: the default policy. baselines.py: least-load, round-robin, random.
- prefix_index.py: what a worker's prefix cache is expected to hold.
- request_size.py: the estimated size of a request.
"""
