"""Where workers come from: local processes, actors on a Ray cluster, given addresses, DNS names, workers that join.

A fleet source is an async iterator of events (Added, Changed, Removed). workers/pool.py applies them: it connects,
watches and probes. A source knows processes and addresses but no load; the pool knows load but no processes.

    events          the events, and the interfaces FleetSource and FleetControl
    sources         builds the sources that the flags ask for
    assignment      divides the machine into slots, and builds the flags of the worker in a slot
    devices         the GPUs and processor cores of this machine
    local           workers on this machine, one supervisor each
    process         one worker process: command line, log, end, and the reason of a crash
    restart_policy  when a worker that has ended is started again, and when it is marked FAILED
    on_ray          workers on a Ray cluster, behind a driver process
    remote          workers at given addresses and behind DNS names
    membership      workers that join by calling the balancer
"""
