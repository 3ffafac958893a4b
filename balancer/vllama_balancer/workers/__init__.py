"""The workers as the balancer sees them: connections, state, load, health, and the leases of requests on them.

Fleet events and the workers' own reports come in; snapshots for routing, leases and streams for dispatch go out.

- pool.py: the set of workers; applies fleet events, runs each worker's tasks.
- worker.py: one worker's state, and from it whether it is available.
- incarnation.py: the state of one boot id: load, prefix index, leases.
- lease.py: one request's place on a worker. load.py: the counts that leases and reports change.
- attempt_errors.py: failed calls, classified. poison.py: which request may have crashed a worker.
- channel.py: the gRPC channel, its stubs and the liveness probe. relay.py: many generations over one call.
- watch.py: follows a worker's reports. health_checker.py: finds hung workers, probes ejected ones.
- breaker.py: ejection, and the thresholds of health.
- discovery_grace.py: waits for models that new workers may announce.
- rolling_restart.py: drain and restart of single workers.
- status.py, metrics.py: the public status and the Prometheus metrics.
"""
