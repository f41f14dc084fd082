"""What a request changes: read, decide, commit; and again where somebody else was faster."""
