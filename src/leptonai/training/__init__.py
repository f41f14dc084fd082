"""What trains in the user's own process."""
