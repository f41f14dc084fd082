"""Model servers, in a replica's own process."""
