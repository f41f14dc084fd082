"""The command line: thin over the client, and quick to start."""
