"""One function over everything, in threads here or on a cluster."""
