"""The balancer: both front doors, and the fleet of workers behind them."""
