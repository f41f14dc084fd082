"""What is asked: the wire format."""
