"""An environment and its locks in; out: commands inside it, bundles and archives of it, and the forms other tools read."""
