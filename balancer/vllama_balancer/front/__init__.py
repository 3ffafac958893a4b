"""The gRPC front door: calls of gRPC clients and joining workers come in, the gateway and the pool answer.

`server` runs the gRPC server with Generation and Embedding, which relay to the gateway. `fleet_service` lists, drains
and restarts workers. `membership_service` lets workers join. `health_service` is grpc.health.v1. `authorization`
checks the callers, `rpc_errors` turns exceptions into statuses.
"""
