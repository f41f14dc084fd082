"""Models that train and serve with Lepton."""
