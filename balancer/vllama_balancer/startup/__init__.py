"""Parts of the balancer that are needed while the process starts or ends; `app` puts them together.

`front_doors` binds, opens, drains and closes the HTTP and the gRPC server. `tls` makes their credentials and those of
channels to workers. `fleet_view` is the fleet as both servers show it. `model_setup` resolves the configured models
and waits for the first workers. `startup_display` shows the progress of starting workers and the banner.
"""
