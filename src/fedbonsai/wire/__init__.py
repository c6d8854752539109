"""Messages as bytes: `encode`, `decode`, `account`. Everything that comes in from outside is checked here."""
