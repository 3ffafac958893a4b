"""A discrete-event fleet that measures placement policies in minutes instead of GPU hours.

The engines are the simulated engine's step model, the policies and their bookkeeping are the
balancer's own objects, and only the clock is made up. So what is measured here is what is shipped.
`engine_model` alone imports the server's package: its pure step model, nothing that serves.
"""
