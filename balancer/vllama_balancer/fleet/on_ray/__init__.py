"""Workers on a Ray cluster. Ray provides nodes and GPUs; requests and tokens never pass through it.

Ray ends a process that has lost its cluster. Therefore the balancer never imports it: it starts a driver as a child
process and restarts it when it ends.

    balancer                           driver (child process)               node of the cluster
    fleet.RayFleet  <-- messages -->   driver -> supervisor.ActorSupervisors  -> actor.HostActor -> worker process

    fleet       RayFleet: a FleetSource and FleetControl over the driver process
    messages    the commands and events between balancer and driver, one JSON line each
    driver      `python -m vllama_balancer.fleet.on_ray.driver`
    supervisor  restarts one worker through crashes, lost nodes and lack of room; the interface ActorSlot
    actor       ActorSlot on a real cluster, and the actor that runs the worker process on its node
"""
