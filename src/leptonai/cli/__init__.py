"""The command `leptonai`: a thin layer over the SDK that answers at once."""
