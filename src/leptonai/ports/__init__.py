"""What the platform needs of the world: protocols and their values."""
