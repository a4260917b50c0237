"""A variant or none in, what stands in its way on this machine out: small checks as data, each with a remedy."""
