"""An environment and its locks in; out: commands inside it, on a cluster and under Ray too, and the forms other tools read."""
