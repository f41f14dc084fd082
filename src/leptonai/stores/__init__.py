"""Where records are kept: SQLite and PostgreSQL through one SQL store, memory for tests."""
