"""The dispatcher: brings every request to its end on some worker, and again on another one if that fails.

Requests come in through the Gateway interface; each passes admission, becomes a lease on a worker, and streams back.

- dispatcher.py: the Gateway; looks up the model, assembles the parts.
- admission.py: grants leases or queues requests. fair_queue.py: turns between clients.
- placer.py: snapshot, pick and lease in one step.
- generation_stream.py: the loop over the attempts of one generation. generation.py: its state.
- attempt.py: one call under one lease.
- retry.py: what follows a failed attempt. retry_budget.py: how many retries run at once.
- replay.py: continuation of a broken stream without a seam.
"""
