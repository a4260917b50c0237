"""An environment in, its use elsewhere out: commands inside it, on this machine, on a cluster's nodes, and under Ray."""
